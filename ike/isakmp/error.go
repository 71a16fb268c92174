// SPDX-License-Identifier: Apache-2.0

package isakmp

import (
	"errors"
	"fmt"
)

// Errors of ParseHeader. ErrVersion and ErrLength come with the header, which
// an INVALID_MAJOR_VERSION or UNEQUAL_PAYLOAD_LENGTHS notification needs.
var (
	ErrTruncated = errors.New("message is shorter than the ISAKMP header")
	ErrVersion   = errors.New("major version is not 1")
	ErrLength    = errors.New("length is not that of the datagram")
)

// Errors of ParseSA, each inside an *Error, for DOI_NOT_SUPPORTED and
// SITUATION_NOT_SUPPORTED.
var (
	ErrDOI       = errors.New("DOI is not IPsec")
	ErrSituation = errors.New("situation is not SIT_IDENTITY_ONLY")
)

// Error says which payload of a message is malformed and why. Payload is that
// of the innermost payload: a Proposal or Transform inside an SA payload.
type Error struct {
	Payload PayloadType
	Reason  string
	Err     error // a sentinel of this package, or nil
}

// Error returns "decode SA payload: ..." in the payload's own name.
func (e *Error) Error() string {
	return "decode " + e.Payload.String() + " payload: " + e.Reason
}

// Unwrap returns the sentinel behind e, or nil.
func (e *Error) Unwrap() error { return e.Err }

func malformed(p PayloadType, format string, args ...any) error {
	return &Error{Payload: p, Reason: fmt.Sprintf(format, args...)}
}
