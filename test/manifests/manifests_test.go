package manifests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	psa "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

const (
	repository = "../.."
	directory  = repository + "/examples/k8s"
)

// vmentry is the program, and known are the names of its variables.
var (
	vmentry string
	known   map[string]bool
)

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "vmentry-manifests-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	vmentry = filepath.Join(dir, "vmentry")
	build := exec.Command("go", "build", "-o", vmentry, "./cmd/vmentry")
	build.Dir, build.Env = repository, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("%w\n%s", err, out)
	}
	table, err := exec.Command(vmentry, "env", "-o", "markdown").Output()
	if err != nil {
		return 0, err
	}
	known = map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([A-Z0-9_]+)` \\|").FindAllSubmatch(table, -1) {
		known[string(row[1])] = true
	}
	return m.Run(), nil
}

func all(t *testing.T) []example {
	t.Helper()
	list, err := examples(directory)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestExamples: every field is one of the API, every reference leads somewhere, and vmentry accepts what its variables and files say.
func TestExamples(t *testing.T) {
	for _, e := range all(t) {
		t.Run(e.name, func(t *testing.T) { check(t, e) })
	}
}

func check(t *testing.T, e example) {
	for _, f := range findings(e, known) {
		t.Error(f)
	}
	for i, p := range podsOf(e.objects) {
		if p.vm() == nil {
			continue
		}
		if err := provision(vmentry, filepath.Join(t.TempDir(), fmt.Sprint(i)), e, p); err != nil {
			t.Errorf("%s: vmentry does not accept its configuration: %v", p.owner, err)
		}
	}
}

// TestReadme: the manifests of the README are as good as the examples.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile(repository + "/README.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, block := range regexp.MustCompile("(?s)```yaml\n(apiVersion:.*?)```").FindAllSubmatch(text, -1) {
		objects, err := decode(block[1])
		if err != nil {
			t.Fatal(err)
		}
		found += len(objects)
		e := example{name: "README.md", objects: objects}
		// a Secret of SSH keys is shown in the examples; here the reader's own key is in the configuration
		check(t, e)
	}
	if found != 3 {
		t.Errorf("the README has %d objects, want a ConfigMap, a Deployment and a Service", found)
	}
}

// row is an example's in the table of examples/k8s/README.md.
type row struct{ shows, needs, test string }

func table(t *testing.T) map[string]row {
	t.Helper()
	text, err := os.ReadFile(directory + "/README.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]row{}
	for _, m := range regexp.MustCompile(`(?m)^\| \[([^]]+)\]\(([^)]+)\) \|(.*)\|(.*)\|(.*)\|$`).FindAllStringSubmatch(string(text), -1) {
		if _, err := os.Stat(filepath.Join(directory, m[2])); err != nil {
			t.Errorf("the table's %s leads nowhere: %v", m[1], err)
		}
		rows[m[1]] = row{m[3], m[4], strings.Trim(m[5], " `")}
	}
	return rows
}

// TestTable: every example is in the table, with a test that there is, and asks for no more than the table says it needs.
func TestTable(t *testing.T) {
	rows := table(t)
	tests := testsThatThereAre(t)
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks())
	if err != nil {
		t.Fatal(err)
	}
	restricted := psa.LevelVersion{Level: psa.LevelRestricted, Version: psa.MajorMinorVersion(1, 33)}
	for _, e := range all(t) {
		r, ok := rows[e.name]
		if !ok {
			t.Errorf("%s is not in the table of README.md", e.name)
			continue
		}
		delete(rows, e.name)
		if !tests[r.test] && r.test != "the same" { // as the row above it
			t.Errorf("%s: there is no test %q", e.name, r.test)
		}
		for _, p := range podsOf(e.objects) {
			result := policy.AggregateCheckResults(evaluator.EvaluatePod(restricted, &p.meta, &p.spec))
			if says := strings.Contains(r.needs, "restricted"); says != result.Allowed {
				t.Errorf("%s: %s: the table says that it is restricted: %t; the Pod Security Standard says: %t %s", e.name, p.owner, says, result.Allowed, result.ForbiddenDetail())
			}
		}
		if !strings.HasPrefix(e.words, "# ") || !strings.Contains(e.words, "kubectl ") && !strings.HasPrefix(e.words, "# The base ") {
			t.Errorf("%s does not say at its beginning what it shows, and how", e.name)
		}
		for _, command := range applyCommand.FindAllStringSubmatch(e.words, -1) {
			if _, err := os.Stat(filepath.Join(directory, command[2])); err != nil || e.isKustomization() == (command[1] == "f") && command[2] != e.name+"/vm.yaml" {
				t.Errorf("%s: not how it is applied: %s (%v)", e.name, command[0], err)
			}
		}
	}
	for name := range rows {
		t.Errorf("the table has %s, and there is no such example", name)
	}
}

// TestDemonstrations: the manifests and tests that docs/demonstrations.md names are there.
func TestDemonstrations(t *testing.T) {
	text, err := os.ReadFile(repository + "/docs/demonstrations.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := testsThatThereAre(t)
	rows := regexp.MustCompile(`(?m)^\| (.*) \| (.*) \| (.*) \|$`).FindAllStringSubmatch(string(text), -1)
	if len(rows) < 30 {
		t.Errorf("there are only %d rows", len(rows))
	}
	for _, m := range rows {
		if m[1] == "what" {
			continue
		}
		named := regexp.MustCompile("`(Test\\w+)`").FindAllStringSubmatch(m[3], -1)
		if len(named) == 0 && !strings.Contains(m[3], "`make ") {
			t.Errorf("no test for %q", m[1])
		}
		for _, n := range named {
			if !tests[n[1]] {
				t.Errorf("%q: there is no test %s", m[1], n[1])
			}
		}
		for _, n := range regexp.MustCompile("`([a-z0-9-]+\\.yaml)`").FindAllStringSubmatch(m[2], -1) {
			if _, err := os.Stat(filepath.Join(directory, n[1])); err != nil {
				t.Errorf("%q: %v", m[1], err)
			}
		}
	}
}

var applyCommand = regexp.MustCompile(`kubectl apply -([fk]) (\S+)`)

// testsThatThereAre are the names of the repository's test functions.
func testsThatThereAre(t *testing.T) map[string]bool {
	t.Helper()
	var files []string
	for _, pattern := range []string{"../*_test.go", "../*/*_test.go", "../../internal/*/*_test.go"} {
		more, err := filepath.Glob(pattern)
		if err != nil || len(more) == 0 {
			t.Fatalf("no tests in %s: %v", pattern, err)
		}
		files = append(files, more...)
	}
	names := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllSubmatch(text, -1) {
			names[string(m[1])] = true
		}
	}
	return names
}

// TestFindings: each rule finds what it is there to find.
func TestFindings(t *testing.T) {
	good, err := os.ReadFile(directory + "/deployment/vm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, old, new, want string }{
		{"OK", "", "", ""},
		{"bad field", "enableServiceLinks: false", "enableServiceLink: false", `unknown field "spec.template.spec.enableServiceLink"`},
		{"bad field twice", "replicas: 1", "replicas: 1\n  replicas: 2", `key "replicas" already set`},
		{"bad type", "replicas: 1", "replicas: one", "cannot unmarshal"},
		{"bad kind", "kind: Deployment", "kind: Deploymnet", "no kind"},
		{"bad version", "apiVersion: apps/v1", "apiVersion: apps/v1beta1", "no kind"},
		{"bad variable", "name: VM_MEMORY", "name: VM_MEMROY", "no variable VM_MEMROY"},
		{"bad grace", "terminationGracePeriodSeconds: 40", "terminationGracePeriodSeconds: 29", "terminationGracePeriodSeconds"},
		{"bad token", "automountServiceAccountToken: false", "automountServiceAccountToken: true", "token"},
		{"bad selector", "matchLabels: {app: vm}", "matchLabels: {app: wm}", "Deployment/vm: its selector"},
		{"bad Service's selector", "selector: {app: vm}", "selector: {app: wm}", "Service/vm: its selector"},
		{"bad port", "targetPort: 2222", "targetPort: 222", "port 22 leads to port 222"},
		{"bad mount", "{name: keys, mountPath: /keys", "{name: kees, mountPath: /keys", "there is no volume kees"},
		{"bad volume", "        - {name: data, mountPath: /var/lib/vmentry}\n", "", "the volume data is not mounted"},
		{"bad ConfigMap", "configMap: {name: vm}", "configMap: {name: wm}", "no ConfigMap wm"},
		{"bad Secret", "secret: {secretName: vm}", "secret: {secretName: wm}", "no Secret wm"},
		{"bad probe", "timeoutSeconds: 5", "timeoutSeconds: 1", "less than 5 seconds"},
		{"bad pull", "IfNotPresent", "Always", "asks a registry"},
		{"bad value", "value: 12G", "value: 12X", "12X"},
		{"bad configuration", "version: 1.4.0", "version: 1.4.0\n    storag: {}", "storag"},
		{"bad path", "path: /etc/hello", "path: etc/hello", "path not absolute"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := strings.Replace(string(good), tt.old, tt.new, 1)
			if tt.old != "" && text == string(good) {
				t.Fatalf("there is no %q", tt.old)
			}
			got := wrong(t, text)
			if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
				t.Errorf("found %q, want %q", got, tt.want)
			}
		})
	}
}

// wrong is all that is found to be wrong with a manifest.
func wrong(t *testing.T, text string) string {
	t.Helper()
	objects, err := decode([]byte(text))
	if err != nil {
		return err.Error()
	}
	e := example{name: "deployment", words: comment.FindString(text), objects: objects}
	found := findings(e, known)
	for _, p := range podsOf(objects) {
		if p.vm() == nil {
			continue
		}
		if err := provision(vmentry, t.TempDir(), e, p); err != nil {
			found = append(found, err.Error())
		}
	}
	return strings.Join(found, "\n")
}
