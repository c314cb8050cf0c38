package k8s

import (
	"strings"
	"testing"
)

// TestJob: a Job ends as what it has built in its VM did, and says how.
func TestJob(t *testing.T) {
	c := newCluster(t)
	c.apply("job.yaml")
	c.await("job/job-vm", condition("Complete"), is("True"))

	c.apply("job.yaml", "job-vm", "job-fails", `echo "hello from $(hostname)"`, "exit 7")
	c.await("job/job-fails", condition("Failed"), is("True"))
	ended := func(field string) string {
		return c.kubectl("get", "pods", "--selector", "app=job-fails", "--output", "jsonpath={.items[*].status.containerStatuses[0].state.terminated."+field+"}")
	}
	if code := ended("exitCode"); code != "7" { // of one pod: there is no second try
		t.Errorf("exit code %s, want 7", code)
	}
	if message := ended("message"); !strings.Contains(message, "the guest chose 7") {
		t.Errorf("the termination message is %q", message)
	}
}
