package manifests

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
)

// pod is a Pod, or what another object makes Pods from.
type pod struct {
	owner    string // kind/name
	meta     metav1.ObjectMeta
	spec     corev1.PodSpec
	selector labels.Selector // nil for a Pod, and for a Job, which makes its own
	claims   []string        // of volumeClaimTemplates: volumes by these names
}

// podsOf finds all of an example.
func podsOf(objects []runtime.Object) []pod {
	var pods []pod
	template := func(kind, name string, t corev1.PodTemplateSpec, selector *metav1.LabelSelector) *pod {
		p := pod{owner: kind + "/" + name, meta: t.ObjectMeta, spec: t.Spec}
		if selector != nil {
			p.selector = labels.Set(selector.MatchLabels).AsSelector()
		}
		pods = append(pods, p)
		return &pods[len(pods)-1]
	}
	for _, o := range objects {
		switch o := o.(type) {
		case *corev1.Pod:
			pods = append(pods, pod{owner: "Pod/" + o.Name, meta: o.ObjectMeta, spec: o.Spec})
		case *corev1.ReplicationController:
			template("ReplicationController", o.Name, *o.Spec.Template, &metav1.LabelSelector{MatchLabels: o.Spec.Selector})
		case *appsv1.Deployment:
			template("Deployment", o.Name, o.Spec.Template, o.Spec.Selector)
		case *appsv1.StatefulSet:
			p := template("StatefulSet", o.Name, o.Spec.Template, o.Spec.Selector)
			for _, claim := range o.Spec.VolumeClaimTemplates {
				p.claims = append(p.claims, claim.Name)
			}
		case *batchv1.Job:
			template("Job", o.Name, o.Spec.Template, nil)
		}
	}
	return pods
}

// vm is the container that vmentry runs in, nil if the pod has none.
func (p pod) vm() *corev1.Container {
	for i, c := range p.spec.Containers {
		if len(c.Command) == 0 && isVMImage(c.Image) {
			return &p.spec.Containers[i]
		}
	}
	return nil
}

func isVMImage(image string) bool {
	name, tag, _ := strings.Cut(image, ":")
	return (name == "vmentry" || strings.HasPrefix(name, "vmentry/")) && tag == "latest"
}

// value is that of a container's variable.
func value(c *corev1.Container, name string) string {
	for _, v := range c.Env {
		if v.Name == name {
			return v.Value
		}
	}
	return ""
}

// hasPodsAddress says whether the VM has the pod's ports.
func hasPodsAddress(c *corev1.Container) bool {
	return value(c, "VM_NETWORK") == "bridge" || value(c, "RANCHER_VM") == "true" && value(c, "VM_NETWORK") == ""
}

// findings are what is wrong with an example although the API would take it. known are vmentry's variables.
func findings(e example, known map[string]bool) []string {
	var found []string
	pods := podsOf(e.objects)
	note := func(where, format string, args ...any) {
		found = append(found, where+": "+fmt.Sprintf(format, args...))
	}
	for _, p := range pods {
		volumes(p, func(format string, args ...any) { note(p.owner, format, args...) })
		sources(e, p, func(format string, args ...any) { note(p.owner, format, args...) })
		if c := p.vm(); c != nil {
			careful(p, c, known, func(format string, args ...any) { note(p.owner, format, args...) })
		}
	}
	selectors(e.objects, pods, note)
	return found
}

// labels are those of a pod, with what Kubernetes itself adds for a selector to find one pod of a StatefulSet.
func (p pod) labels(selector map[string]string) labels.Set {
	set := labels.Set(maps.Clone(p.meta.Labels))
	for _, name := range []string{appsv1.StatefulSetPodNameLabel, appsv1.PodIndexLabel} {
		if v, ok := selector[name]; ok && strings.HasPrefix(p.owner, "StatefulSet/") {
			set[name] = v
		}
	}
	return set
}

type noter func(format string, args ...any)

// volumes checks that what is mounted is there, and what is there is mounted.
func volumes(p pod, note noter) {
	there := map[string]bool{}
	for _, v := range p.spec.Volumes {
		there[v.Name] = false
	}
	for _, claim := range p.claims {
		there[claim] = false
	}
	use := func(name string) {
		if _, ok := there[name]; !ok {
			note("there is no volume %s", name)
		}
		there[name] = true
	}
	for _, c := range append(slices.Clone(p.spec.InitContainers), p.spec.Containers...) {
		places := map[string]bool{}
		for _, m := range c.VolumeMounts {
			use(m.Name)
			if places[m.MountPath] {
				note("two volumes at %s", m.MountPath)
			}
			places[m.MountPath] = true
		}
		for _, d := range c.VolumeDevices {
			use(d.Name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(there)) {
		if !there[name] {
			note("the volume %s is not mounted", name)
		}
	}
}

// secretCommand is how an example says that a Secret has to be made first: by kubectl, or by a script that says so.
var secretCommand = regexp.MustCompile(`(?:kubectl create secret (?:generic|tls)|makes the Secret) ([a-z0-9-]+)`)

// sources checks that the ConfigMaps, Secrets and claims that a pod names are in the example, or made by a command of its comment.
func sources(e example, p pod, note noter) {
	there := map[string]bool{}
	for _, o := range e.objects {
		switch o := o.(type) {
		case *corev1.ConfigMap:
			there["ConfigMap "+o.Name] = true
		case *corev1.Secret:
			there["Secret "+o.Name] = true
		case *corev1.PersistentVolumeClaim:
			there["PersistentVolumeClaim "+o.Name] = true
		}
	}
	for _, m := range secretCommand.FindAllStringSubmatch(e.words, -1) {
		there["Secret "+m[1]] = true
	}
	need := func(kind, name string) {
		if !there[kind+" "+name] {
			note("there is no %s %s, and no command that makes it", kind, name)
		}
	}
	for _, v := range p.spec.Volumes {
		if v.ConfigMap != nil {
			need("ConfigMap", v.ConfigMap.Name)
		}
		if v.Secret != nil {
			need("Secret", v.Secret.SecretName)
		}
		if v.PersistentVolumeClaim != nil {
			need("PersistentVolumeClaim", v.PersistentVolumeClaim.ClaimName)
		}
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.ConfigMap != nil {
				need("ConfigMap", s.ConfigMap.Name)
			}
			if s.Secret != nil {
				need("Secret", s.Secret.Name)
			}
		}
	}
}

// spare is what a container needs of its grace period beside the guest's shutdown: QEMU is told to quit, and killed three seconds later.
const spare = 5 * time.Second

// careful checks what a careful operator would look at.
func careful(p pod, c *corev1.Container, known map[string]bool, note noter) {
	names := map[string]bool{}
	for _, v := range c.Env {
		if !known[v.Name] {
			note("vmentry has no variable %s", v.Name)
		}
		if names[v.Name] {
			note("%s is there twice", v.Name)
		}
		names[v.Name] = true
	}
	timeout := 25 * time.Second
	if v := value(c, "VM_SHUTDOWN_TIMEOUT"); v != "" {
		timeout, _ = time.ParseDuration(v)
	}
	if grace := p.spec.TerminationGracePeriodSeconds; grace == nil || time.Duration(*grace)*time.Second < timeout+spare {
		note("terminationGracePeriodSeconds leaves less than %s beside VM_SHUTDOWN_TIMEOUT", spare)
	}
	if t := p.spec.AutomountServiceAccountToken; t == nil || *t {
		note("the VM's pod gets a token of the cluster's")
	}
	if l := p.spec.EnableServiceLinks; l == nil || *l {
		note("the VM's pod gets variables for Services")
	}
	if c.ImagePullPolicy != corev1.PullIfNotPresent {
		note("a node that has the image asks a registry for it")
	}
	for _, probe := range []*corev1.Probe{c.StartupProbe, c.ReadinessProbe, c.LivenessProbe} {
		if probe != nil && probe.Exec != nil && probe.TimeoutSeconds < 5 {
			note("a probe has less than 5 seconds: it would be ended before it can say why")
		}
	}
	if p.spec.HostNetwork {
		note("the VM would get the node's network")
	}
}

// selectors checks that what chooses pods by labels finds some, and that the ports lead into the VM.
func selectors(objects []runtime.Object, pods []pod, note func(where, format string, args ...any)) {
	for _, p := range pods {
		if p.selector != nil && (p.selector.Empty() || !p.selector.Matches(labels.Set(p.meta.Labels))) {
			note(p.owner, "its selector does not find its pods")
		}
	}
	find := func(where string, selector map[string]string) []pod {
		var found []pod
		for _, p := range pods {
			if labels.SelectorFromSet(selector).Matches(p.labels(selector)) {
				found = append(found, p)
			}
		}
		if len(selector) == 0 || len(found) == 0 {
			note(where, "its selector finds no pod")
		}
		return found
	}
	services := map[string]bool{}
	for _, o := range objects {
		switch o := o.(type) {
		case *corev1.Service:
			services[o.Name] = true
			for _, p := range find("Service/"+o.Name, o.Spec.Selector) {
				for _, port := range o.Spec.Ports {
					leads("Service/"+o.Name, port, p, note)
				}
			}
		case *policyv1.PodDisruptionBudget:
			find("PodDisruptionBudget/"+o.Name, o.Spec.Selector.MatchLabels)
		case *networkingv1.NetworkPolicy:
			find("NetworkPolicy/"+o.Name, o.Spec.PodSelector.MatchLabels)
		case *NetworkAttachmentDefinition:
			var conf struct{ CNIVersion, Type string }
			if err := json.Unmarshal([]byte(o.Spec.Config), &conf); err != nil || conf.CNIVersion == "" || conf.Type == "" {
				note("NetworkAttachmentDefinition/"+o.Name, "its config is not one of CNI: %v", err)
			}
		}
	}
	for _, o := range objects {
		if s, ok := o.(*appsv1.StatefulSet); ok && !services[s.Spec.ServiceName] {
			note("StatefulSet/"+s.Name, "there is no Service %s to give its pods names", s.Spec.ServiceName)
		}
	}
}

// leads checks that a Service's port is one that the VM's container has.
func leads(where string, port corev1.ServicePort, p pod, note func(where, format string, args ...any)) {
	c := p.vm()
	if c == nil || hasPodsAddress(c) {
		return
	}
	target := port.TargetPort.IntValue()
	if target == 0 {
		target = int(port.Port)
	}
	if !slices.ContainsFunc(c.Ports, func(cp corev1.ContainerPort) bool { return int(cp.ContainerPort) == target }) {
		note(where, "port %d leads to port %d, which the container does not have", port.Port, target)
	}
}
