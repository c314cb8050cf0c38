package image

func childApply() {}
func childFull()  {}
func childFetch() {}
