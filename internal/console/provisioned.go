package console

// provisioned are the lines by which the guest's own provisioning says that it is done: cloud-init's final message
// (or that of its last unit; a final_message of the user's own hides it, and then the shell that waits for cloud-init's last
// stage still speaks), and what Ignition's last unit and the systems around it print. Ignition's own "finished successfully"
// will not do: each of its stages says that, and the next may fail.
var provisioned = pattern(`Cloud-init v\. \S+ finished at` +
	`|Finished (?:\x1b\[[0-9;]*m)?cloud-final\.service` +
	`|Reached target (?:\x1b\[[0-9;]*m)?cloud-init\.target` +
	`|Completed socket interaction for boot stage final` +
	`|Finished (?:\x1b\[[0-9;]*m)?ignition-files\.service` +
	`|Ignition: ran on `)

// Provisioned says whether a line of the console tells that the guest has applied its configuration.
func Provisioned(line string) bool { return provisioned().MatchString(line) }
