package image

// Record is what is remembered of a URL or path.
type Record struct{}
