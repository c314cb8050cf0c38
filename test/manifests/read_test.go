// Package manifests checks what can be known of the manifests in examples/k8s and in the README without a cluster: each field is one of
// the API of v1.33, each reference leads somewhere, each is as careful as its table says, and vmentry itself accepts the configuration.
//
// It is a module of its own, so that Kubernetes' types and kustomize are not among what vmentry is built from.
package manifests

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// example is one of the manifests: what kubectl would be given.
type example struct {
	name    string           // as in the table of the README: pod.yaml, deployment
	words   string           // the comment at its beginning
	objects []runtime.Object // as they are sent
}

// isKustomization tells the two kinds of examples apart.
func (e example) isKustomization() bool { return !strings.HasSuffix(e.name, ".yaml") }

// examples reads all that is in a directory.
func examples(dir string) ([]example, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var all []example
	for _, entry := range entries {
		var text []byte
		path := filepath.Join(dir, entry.Name())
		first := path // the file that is read first
		switch {
		case entry.IsDir():
			first = filepath.Join(path, "kustomization.yaml")
			if _, err := os.Stat(first); errors.Is(err, fs.ErrNotExist) {
				continue
			}
			text, err = render(path)
		case strings.HasSuffix(path, ".yaml"):
			text, err = os.ReadFile(path)
		default:
			continue
		}
		if err != nil {
			return nil, err
		}
		e := example{name: entry.Name()}
		if e.objects, err = decode(text); err != nil {
			return nil, fmt.Errorf("%s: %w", e.name, err)
		}
		if e.words, err = commentOf(first); err != nil {
			return nil, err
		}
		if e.isKustomization() { // where it is a base, what says more is in the file
			more, err := commentOf(filepath.Join(path, "vm.yaml"))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
			e.words += more
		}
		all = append(all, e)
	}
	return all, nil
}

// render is `kubectl kustomize`.
func render(dir string) ([]byte, error) {
	out, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		return nil, err
	}
	return out.AsYaml()
}

// commentOf is the comment at a file's beginning.
func commentOf(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	return comment.FindString(string(text)), nil
}

var comment = regexp.MustCompile(`^(?:#.*\n)*`)

// decode reads objects as strictly as `kubectl apply --validate=strict` does: a field that is not in the API is an error, and one that is
// there twice.
func decode(text []byte) ([]runtime.Object, error) {
	var objects []runtime.Object
	for documents := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text))); ; {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		if len(bytes.TrimSpace(document)) == 0 {
			continue
		}
		object, _, err := strictly.Decode(document, nil, nil)
		if err != nil {
			return nil, err
		}
		objects = append(objects, object)
	}
}

var strictly = func() runtime.Decoder {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme, batchv1.AddToScheme, networkingv1.AddToScheme, policyv1.AddToScheme, rbacv1.AddToScheme} {
		if err := add(scheme); err != nil {
			panic(err) // the types contradict each other
		}
	}
	scheme.AddKnownTypes(schema.GroupVersion{Group: "k8s.cni.cncf.io", Version: "v1"}, &NetworkAttachmentDefinition{})
	return serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
}()

// NetworkAttachmentDefinition is the one object of the examples that is not Kubernetes' own: the CNI configuration of a network that Multus
// attaches (Kubernetes Network Custom Resource Definition De-facto Standard, version 1.3, section 3).
type NetworkAttachmentDefinition struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec struct {
		Config string `json:"config,omitempty"`
	} `json:"spec,omitempty"`
}

// DeepCopyObject makes it a [runtime.Object].
func (n *NetworkAttachmentDefinition) DeepCopyObject() runtime.Object {
	twin := *n
	n.ObjectMeta.DeepCopyInto(&twin.ObjectMeta)
	return &twin
}
