// SPDX-License-Identifier: Apache-2.0

package vici

import (
	"context"
	"log/slog"
	"time"

	"quicksand/ike"
	"quicksand/sa"
)

// Daemon is what the control protocol steers. Its methods may be called from
// several goroutines at once, return when ctx ends, and return errors that an
// operator understands: their text is what swanctl prints. What they return
// belongs to the caller, except that a *ike.Connection and a *sa.Pair are
// shared and only read.
type Daemon interface {
	// Version is quicksand's own version, such as "0.1.0".
	Version() string
	Stats(ctx context.Context) (Stats, error)

	// Connections lists what is configured, in the order of loading.
	Connections(ctx context.Context) ([]*ike.Connection, error)
	// SAs lists the IKE SAs with their children. Manually keyed children come
	// under an IKEInfo of their connection with ID 0 and no cookies.
	SAs(ctx context.Context) ([]ike.IKEInfo, error)
	// Traps lists the trap policies that stand.
	Traps(ctx context.Context) ([]sa.Policy, error)
	// Counters returns what the pair with the unique id has carried.
	Counters(ctx context.Context, pair uint32) (in, out sa.Counters, err error)
	// MessageCounters counts what peers sent and got, by name, since the start.
	MessageCounters(ctx context.Context) (map[string]uint64, error)

	// LoadConnection adds the connection or replaces the one of its name, and
	// carries out its children's start actions where they are new. Running SAs
	// are left alone.
	LoadConnection(ctx context.Context, c *ike.Connection) error
	UnloadConnection(ctx context.Context, name string) error

	// LoadSecret adds the secret or replaces the one of its Name.
	LoadSecret(ctx context.Context, s *ike.Secret) error
	UnloadSecret(ctx context.Context, name string) error
	// Secrets lists the names of the secrets.
	Secrets(ctx context.Context) ([]string, error)
	ClearSecrets(ctx context.Context) error

	// Initiate brings up a child, or the connection's IKE SA alone where child
	// is empty; an empty conn stands for the first connection that has the
	// child. It returns when the SA is up or has failed; when ctx ends it
	// returns ctx's error and the negotiation goes on. log gets the lines of
	// this negotiation, never blocks, and is not called after the return.
	Initiate(ctx context.Context, conn, child string, log func(Line)) error
	// Terminate deletes the SAs that match and returns how many matched, when
	// they are gone. s.Command is not used. ctx and log are as in Initiate.
	Terminate(ctx context.Context, s ike.Select, log func(Line)) (int, error)
	// Rekey begins the renegotiation of the SAs that match, does not wait for
	// its end, and returns how many matched. s.Command is not used.
	Rekey(ctx context.Context, s ike.Select) (int, error)

	// Install and Uninstall put up and take down a child's trap policy; an
	// empty conn is as in Initiate.
	Install(ctx context.Context, conn, child string) error
	Uninstall(ctx context.Context, conn, child string) error

	// ReloadSettings reads the daemon's own settings file again.
	ReloadSettings(ctx context.Context) error
}

// Stats is the daemon's state in a few numbers.
type Stats struct {
	Started  time.Time
	IKESAs   int // all
	HalfOpen int // of those, still in Main Mode
	Pairs    int // installed
	// DHWorkers compute Diffie-Hellman; DHBusy of them at the moment, while
	// DHQueued computations wait.
	DHWorkers, DHBusy, DHQueued int
	// Timers is the number of timers running, 0 where nobody counts.
	Timers int
	// Backends are the kinds of engine in use, best first.
	Backends []sa.Kind
}

// Line is one line of the daemon's log. Group is strongSwan's three letters
// for the part it came from ("IKE", "CHD", "NET", "CFG", "DMN", "KNL", "ESP");
// Conn and IKE are whose it is, where it is anybody's.
type Line struct {
	Level slog.Level
	Group string
	Conn  string
	IKE   uint32
	Text  string
}
