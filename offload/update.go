// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"fmt"

	"quicksand/sa"
)

// Update implements sa.Backend.
func (b *Backend) Update(q *sa.Pair) error {
	return fmt.Errorf("update pair %d: not done", q.ID)
}
