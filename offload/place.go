// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"errors"
	"fmt"
	"strings"

	"quicksand/sa"
)

// ownReqid is the reqid of SAs that are no child's.
const ownReqid = 0x71500000

// attempt is a way to carry a pair.
type attempt struct {
	kind   sa.Kind
	egress *egress // nil for Kernel
}

// egress is where a pair's packets leave.
type egress struct{ device string }

func (e *egress) name() string { return e.device }

func (a attempt) offload() *offloading { return nil }

// shape changes the SAs to what the way takes.
func (a attempt) shape(q *sa.Pair, in, out *state) {}

// attempts returns the ways to carry a pair, best first, and why there are no
// better ones.
func (b *Backend) attempts(q *sa.Pair) (list []attempt, why []string) {
	return []attempt{{kind: sa.Kernel}}, nil
}

func (b *Backend) remember(a attempt, err error) {}

// placementOf says where the SAs that were read back are.
func (b *Backend) placementOf(q *sa.Pair, how attempt, in, out *seen) sa.Placement {
	detail := fmt.Sprintf("kernel %s", q.Suite.Protocol)
	if q.Encap {
		detail += " in UDP"
	}
	return sa.Placement{Kind: sa.Kernel, Detail: detail}
}

func joinWords(why []string) error { return errors.New(strings.Join(why, "; ")) }
