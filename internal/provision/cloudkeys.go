package provision

import (
	"bytes"
	"encoding/base64"
	"regexp"
	"slices"

	"go.yaml.in/yaml/v3"
)

// How cloud-init hands out keys decides where ours go (cc_ssh, cc_users_groups and ug_util of cloud-init):
//
//   - public-keys of the meta-data go to the image's default user, whatever the user data says, as long as it does not do
//     without that user by a `users` list without `default`.
//   - Any other user gets keys through an entry in `users`. User data wins over vendor data key by key, and lists are not
//     joined: so without `users` in the user data our entry goes into the vendor data, beside `default`, and the user data
//     stays as it is, byte by byte.
//   - With `users` in a plain cloud-config, our keys are put into that list: in the user's own entry, because of two
//     entries for one name cloud-init takes the keys of the first, else in a new one.
//   - With `users` somewhere inside a MIME message, an archive or a template, a part of ours is added at the end, which
//     is merged with lists appended.

// `mounts` are handed out by the same rules; what the user data mounts by a tag or at a place of ours stays the user's.

// networkEveryBoot has cloud-init write the guest's network configuration at every boot, and not at the first alone
// (https://docs.cloud-init.io, "Events and updates").
var networkEveryBoot = map[string]any{"network": map[string]any{"when": []string{"boot-new-instance", "boot"}}}

// ownConfig is the cloud-config that gives keys to a user, and mounts, where the user data has neither `users` nor `mounts`.
func ownConfig(user string, keys []string, mounts []Mount, cardsChange bool) map[string]any {
	own := map[string]any{}
	if len(keys) > 0 {
		own["users"] = []any{"default", userEntry(user, keys)}
	}
	var lines []any
	for _, m := range mounts {
		lines = append(lines, m.fstab())
	}
	if lines != nil {
		own["mounts"] = lines
	}
	if cardsChange {
		own["updates"] = networkEveryBoot
	}
	return own
}

func userEntry(user string, keys []string) map[string]any {
	return map[string]any{"name": user, "ssh_authorized_keys": keys}
}

func marshalCloudConfig(v any) []byte {
	b, err := yaml.Marshal(v)
	if err != nil {
		panic(err) // maps, lists and strings always marshal
	}
	return append([]byte("#cloud-config\n"), b...)
}

// node finds the value of a key in the parts; the last one counts.
func (u *userData) node(key string) *yaml.Node {
	var found *yaml.Node
	for _, p := range u.configs {
		if n := valueOf(p.root, key); n != nil {
			found = n
		}
	}
	return found
}

// has also looks into a template, which is no YAML yet.
func (u *userData) has(key string) bool {
	return u.node(key) != nil || u.kind == cloudJinja && regexp.MustCompile(`(?m)^`+key+`\s*:`).Match(u.plain)
}

func valueOf(mapping *yaml.Node, key string) *yaml.Node {
	if mapping == nil || mapping.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return resolved(mapping.Content[i+1])
		}
	}
	return nil
}

func resolved(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// additions are what is put to the user data, in one of three places.
type additions struct {
	vendor map[string]any // of the vendor data
	part   map[string]any // of a part of ours, merged with those before it
	edited bool           // the user's own cloud-config was changed
}

// with gives the user data in which the user gets the keys and the guest its mounts, and the vendor data that helps.
func (u *userData) with(user string, keys []string, mounts []Mount, cardsChange bool) (data, vendor []byte) {
	add := additions{vendor: map[string]any{}, part: map[string]any{}}
	if len(keys) > 0 {
		u.addKeys(user, keys, &add)
	}
	if lines := u.fstabs(mounts); len(lines) > 0 {
		u.addMounts(lines, &add)
	}
	if cardsChange && !u.has("updates") {
		add.vendor["updates"] = networkEveryBoot
	}
	data = u.raw
	switch {
	case add.edited:
		data = u.edited()
	case len(add.part) > 0:
		add.part["merge_how"] = "list(append)+dict(recurse_list)+str()"
		data = u.withPart(marshalCloudConfig(add.part))
	}
	if len(add.vendor) > 0 {
		vendor = marshalCloudConfig(add.vendor)
	}
	return data, vendor
}

func (u *userData) addKeys(user string, keys []string, add *additions) {
	if !u.has("users") {
		add.vendor["users"] = []any{"default", userEntry(user, keys)}
		return
	}
	if users := u.node("users"); users != nil {
		if users.Kind != yaml.SequenceNode {
			u.reportIn(Warning, u.wherePart(), users, "`users` is not a list: the SSH keys reach the image's default user only, not "+user)
			return
		}
		if u.kind == cloudConfig {
			editUsers(users, user, keys)
			add.edited = true
			return
		}
		if entry := userNode(users, user); entry != nil && keysNode(entry) != nil {
			u.warn("the entry of %s in `users` has ssh_authorized_keys of its own: of two entries cloud-init takes the first, so the "+
				"SSH keys reach the image's default user only. Add them to that entry", user)
			return
		}
	}
	add.part["users"] = []any{userEntry(user, keys)}
}

func (u *userData) addMounts(lines []any, add *additions) {
	if !u.has("mounts") {
		add.vendor["mounts"] = lines
		return
	}
	if mounts := u.node("mounts"); mounts != nil {
		if mounts.Kind != yaml.SequenceNode {
			u.reportIn(Warning, u.wherePart(), mounts, "`mounts` is not a list: the volumes are not mounted in the guest")
			return
		}
		if u.kind == cloudConfig {
			for _, l := range lines {
				var n yaml.Node
				_ = n.Encode(l)
				n.Style = yaml.FlowStyle
				mounts.Content = append(mounts.Content, &n)
			}
			add.edited = true
			return
		}
	}
	add.part["mounts"] = lines
}

// wherePart: places in parts are not places in the file.
func (u *userData) wherePart() string {
	if u.kind == cloudConfig {
		return ""
	}
	return "in a part: "
}

// userNode is the entry of one user in the list, a mapping with that name.
func userNode(users *yaml.Node, user string) *yaml.Node {
	i := slices.IndexFunc(users.Content, func(n *yaml.Node) bool {
		name := valueOf(resolved(n), "name")
		return name != nil && name.Value == user
	})
	if i < 0 {
		return nil
	}
	return resolved(users.Content[i])
}

// keysNode knows both spellings: cloud-init reads - in the keys of a user as _.
func keysNode(user *yaml.Node) *yaml.Node {
	if n := valueOf(user, "ssh_authorized_keys"); n != nil {
		return n
	}
	return valueOf(user, "ssh-authorized-keys")
}

// editUsers writes the keys into the list.
func editUsers(users *yaml.Node, user string, keys []string) {
	entry := userNode(users, user)
	var own *yaml.Node
	if entry != nil {
		own = keysNode(entry)
	}
	switch {
	case entry == nil:
		var n yaml.Node
		_ = n.Encode(userEntry(user, keys))
		users.Content = append(users.Content, &n)
	case own == nil:
		var list yaml.Node
		_ = list.Encode(keys)
		entry.Content = append(entry.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: "ssh_authorized_keys"}, &list)
	case own.Kind == yaml.ScalarNode: // one key as a text
		var list yaml.Node
		_ = list.Encode(unique(append(nonEmpty(own.Value), keys...)))
		*own = list
	default:
		for _, k := range keys {
			if !slices.ContainsFunc(own.Content, func(n *yaml.Node) bool { return n.Value == k }) {
				own.Content = append(own.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: k})
			}
		}
	}
}

// edited is the cloud-config written out again. Comments, order and the spelling of values stay.
func (u *userData) edited() []byte {
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(u.configs[0].root); err != nil {
		u.mistake("cannot write the cloud-config with what was added: %v", err)
		return nil
	}
	if kindByStart(b.Bytes()) == cloudConfig {
		return b.Bytes()
	}
	return append([]byte("#cloud-config\n"), b.Bytes()...)
}

func nonEmpty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

// withPart makes a MIME message of the user data and one more part.
func (u *userData) withPart(part []byte) []byte {
	// A boundary that the data does not hold, the same for the same data.
	boundary := "vmentry"
	for bytes.Contains(u.plain, []byte("--"+boundary)) {
		boundary += "-"
	}
	var b bytes.Buffer
	b.WriteString("Content-Type: multipart/mixed; boundary=\"" + boundary + "\"\nMIME-Version: 1.0\n\n--" + boundary + "\n")
	if u.kind == cloudMIME {
		b.Write(bytes.TrimLeft(u.plain, " \t\r\n")) // a multi-part inside a multi-part: cloud-init walks through both
	} else {
		b.WriteString("Content-Type: " + mimeTypeOf(u.kind) + "; charset=\"utf-8\"\n")
		if slices.ContainsFunc(u.plain, func(c byte) bool { return c >= 0x80 }) {
			// Python's mail parser loses what is not ASCII in a part that is not encoded.
			b.WriteString("Content-Transfer-Encoding: base64\n\n" + base64.StdEncoding.EncodeToString(u.plain))
		} else {
			b.WriteString("\n")
			b.Write(u.plain)
		}
	}
	b.WriteString("\n--" + boundary + "\nContent-Type: text/cloud-config; charset=\"utf-8\"\n\n")
	b.Write(part)
	b.WriteString("\n--" + boundary + "--\n")
	return b.Bytes()
}
