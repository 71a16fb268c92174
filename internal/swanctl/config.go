// SPDX-License-Identifier: Apache-2.0

package swanctl

import (
	"errors"

	"quicksand/ike"
)

// secret is an ike.Secret in the making.
type secret struct{ ike.Secret }

// Config makes the whole configuration of a tree.
func Config(root *Section) (*ike.Config, error) {
	var c ike.Config
	if err := rootTable.decode(&c, root, ""); err != nil {
		return nil, err
	}
	return &c, nil
}

var rootTable = table[ike.Config]{
	subs: []sub[ike.Config]{
		{"connections", "The connections, each in a section of its own.",
			func(c *ike.Config, s *Section, path string) error { return connectionsTable.decode(c, s, path) }, &connectionsTable},
		{"secrets", "The pre-shared keys, each in a section of its own.",
			func(c *ike.Config, s *Section, path string) error {
				if len(s.Settings) > 0 {
					// What seems to be a key may be a part of a secret.
					return &Error{s.Settings[0].Pos, path, "has settings of its own; they belong in a section ike<suffix>"}
				}
				return secretsTable.decode(c, s, path)
			}, &secretsTable},
		refuseFilled("pools", noModeConfig),
		refuseFilled("authorities", noCertificates),
		{name: "quicksand", set: func(*ike.Config, *Section, string) error {
			return errors.New("the daemon's own settings belong in quicksand.conf")
		}},
	},
}

// refuseFilled makes a section that may be there as long as it is empty.
func refuseFilled(name, why string) sub[ike.Config] {
	return sub[ike.Config]{name: name, doc: why, set: func(_ *ike.Config, s *Section, _ string) error {
		if len(s.Settings)+len(s.Sections) > 0 {
			return errors.New("not supported: " + why)
		}
		return nil
	}}
}

var connectionsTable = table[ike.Config]{subs: []sub[ike.Config]{
	{"<conn>", "A connection: an IKE SA with a peer.", func(c *ike.Config, s *Section, path string) error {
		conn, err := makeConnection(s.Name, s, path)
		if err == nil {
			c.Connections = append(c.Connections, conn)
		}
		return err
	}, &connectionTable},
}}

var secretsTable = table[ike.Config]{subs: []sub[ike.Config]{
	{"ike*", "A pre-shared key.", func(c *ike.Config, s *Section, path string) error {
		one, err := makeSecret(s.Name, s, path)
		if err == nil {
			c.Secrets = append(c.Secrets, one)
		}
		return err
	}, &secretTable},
	refuseSection[ike.Config]("eap*", onlyIKEv2),
	refuseSection[ike.Config]("xauth*", "there is no XAuth"),
	refuseSection[ike.Config]("ntlm*", onlyIKEv2),
	refuseSection[ike.Config]("ppk*", onlyIKEv2),
	refuseSection[ike.Config]("private*", noCertificates),
	refuseSection[ike.Config]("rsa*", noCertificates),
	refuseSection[ike.Config]("ecdsa*", noCertificates),
	refuseSection[ike.Config]("pkcs8*", noCertificates),
	refuseSection[ike.Config]("pkcs12*", noCertificates),
	refuseSection[ike.Config]("token*", noCertificates),
}}

var secretTable = table[secret]{
	keys: []key[secret]{
		{name: "secret", derived: "none: it has to be said", doc: "The key: text, hexadecimal behind 0x, or base64 behind 0s.", set: setSecret},
		{name: "id*", derived: "none: anybody's", doc: "Whose key it is: an identity, each under a suffix of its own.", set: addOwner},
	},
	done: func(_ *secret, s *Section, path string) error {
		if !s.has("secret") {
			return failAt(s, path, "secret", "is missing")
		}
		return nil
	},
}

// Secret makes a pre-shared key of a section with the keys of secrets.ike.
func Secret(name string, s *Section) (*ike.Secret, error) {
	return makeSecret(name, s, "secrets."+name)
}

func makeSecret(name string, s *Section, path string) (*ike.Secret, error) {
	k := secret{ike.Secret{Name: name}}
	if err := secretTable.decode(&k, s, path); err != nil {
		k.Key.Wipe()
		return nil, err
	}
	return &k.Secret, nil
}

func setSecret(k *secret, s *Setting) (err error) {
	k.Key, err = parseSecret(s)
	return err
}

func addOwner(k *secret, s *Setting) error {
	id, err := parseIdentity(s)
	k.Owners = append(k.Owners, id)
	return err
}

// sharedTable is the message load-shared of the control protocol, in which
// swanctl has decoded the secret and gathered the owners.
var sharedTable = table[secret]{
	keys: []key[secret]{
		{name: "id", set: to((*Setting).text, func(k *secret) *string { return &k.Name })},
		{name: "type", set: func(_ *secret, s *Setting) error {
			_, err := oneOf(s, "IKE, the one kind supported", map[string]bool{"ike": true})
			return err
		}},
		{name: "data", set: func(k *secret, s *Setting) error {
			t, err := s.text()
			if err == nil && t == "" {
				err = errors.New("is empty")
			}
			k.Key = []byte(t)
			return err
		}},
		{name: "owners", set: func(k *secret, s *Setting) error {
			owners := s.List
			if !s.IsList {
				owners = []string{s.Value}
			}
			for _, o := range owners {
				id, err := ike.ParseIdentity(o)
				if err != nil {
					return err
				}
				k.Owners = append(k.Owners, id)
			}
			return nil
		}},
	},
	done: func(_ *secret, s *Section, path string) error {
		for _, k := range []string{"type", "data"} {
			if !s.has(k) {
				return failAt(s, path, k, "is missing")
			}
		}
		return nil
	},
}

// SharedSecret makes a pre-shared key of a section with the keys of the
// control protocol's load-shared: id (its name), type, data, owners.
func SharedSecret(s *Section) (*ike.Secret, error) {
	var k secret
	if err := sharedTable.decode(&k, s, ""); err != nil {
		k.Key.Wipe()
		return nil, err
	}
	return &k.Secret, nil
}
