package k8s

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestJob: a Job ends as what it has built in its VM did, and says how.
func TestJob(t *testing.T) {
	c := newCluster(t)
	c.apply("job.yaml")
	c.await("job/job-vm", condition("Complete"), is("True"))

	text, err := os.ReadFile(filepath.Join("..", "..", "examples", "k8s", "job.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	fails := strings.NewReplacer("job-vm", "job-fails", `echo "hello from $(hostname)"`, "exit 7").Replace(string(text))
	c.feed(fails, "apply", "--filename", "-")
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
