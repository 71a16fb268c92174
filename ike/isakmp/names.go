// SPDX-License-Identifier: Apache-2.0

package isakmp

import "strconv"

// String returns the payload's name in RFC 2408 section 3.1 and RFC 3947, or
// its number.
func (t PayloadType) String() string { return name(payloadNames, t) }

// String returns the exchange's name in RFC 2409, or its number.
func (t ExchangeType) String() string { return name(exchangeNames, t) }

// String returns the protocol's name in RFC 2407 section 4.4.1 without its
// prefix, or its number.
func (p ProtocolID) String() string { return name(protocolNames, p) }

// String returns the notification's name in the RFCs, underscores between the
// words, or its number.
func (t NotifyType) String() string { return name(notifyNames, t) }

// String returns the identification's name in RFC 2407 section 4.6.2.1, or its
// number.
func (t IDType) String() string { return name(idNames, t) }

func name[T ~uint8 | ~uint16](names map[T]string, v T) string {
	if s, ok := names[v]; ok {
		return s
	}
	return strconv.Itoa(int(v))
}

var payloadNames = map[PayloadType]string{
	NoPayload:          "NONE",
	PayloadSA:          "SA",
	PayloadProposal:    "P",
	PayloadTransform:   "T",
	PayloadKE:          "KE",
	PayloadID:          "ID",
	PayloadCert:        "CERT",
	PayloadCertRequest: "CR",
	PayloadHash:        "HASH",
	PayloadSignature:   "SIG",
	PayloadNonce:       "NONCE",
	PayloadNotify:      "N",
	PayloadDelete:      "D",
	PayloadVendorID:    "VID",
	PayloadAttributes:  "ATTR",
	PayloadNATD:        "NAT-D",
	PayloadNATOA:       "NAT-OA",
	PayloadNATDDraft:   "NAT-D (draft)",
	PayloadNATOADraft:  "NAT-OA (draft)",
	PayloadFragment:    "FRAG",
}

var exchangeNames = map[ExchangeType]string{
	MainMode:      "MAIN_MODE",
	Aggressive:    "AGGRESSIVE_MODE",
	Informational: "INFORMATIONAL",
	Transaction:   "TRANSACTION",
	QuickMode:     "QUICK_MODE",
	NewGroupMode:  "NEW_GROUP_MODE",
}

var protocolNames = map[ProtocolID]string{
	ProtoISAKMP: "ISAKMP",
	ProtoAH:     "AH",
	ProtoESP:    "ESP",
	ProtoIPCOMP: "IPCOMP",
}

var idNames = map[IDType]string{
	IDIPv4Addr:   "ID_IPV4_ADDR",
	IDFQDN:       "ID_FQDN",
	IDUserFQDN:   "ID_USER_FQDN",
	IDIPv4Subnet: "ID_IPV4_ADDR_SUBNET",
	IDIPv6Addr:   "ID_IPV6_ADDR",
	IDIPv6Subnet: "ID_IPV6_ADDR_SUBNET",
	IDIPv4Range:  "ID_IPV4_ADDR_RANGE",
	IDIPv6Range:  "ID_IPV6_ADDR_RANGE",
	IDDERASN1DN:  "ID_DER_ASN1_DN",
	IDDERASN1GN:  "ID_DER_ASN1_GN",
	IDKeyID:      "ID_KEY_ID",
}

var notifyNames = map[NotifyType]string{
	InvalidPayloadType:      "INVALID_PAYLOAD_TYPE",
	DOINotSupported:         "DOI_NOT_SUPPORTED",
	SituationNotSupported:   "SITUATION_NOT_SUPPORTED",
	InvalidCookie:           "INVALID_COOKIE",
	InvalidMajorVersion:     "INVALID_MAJOR_VERSION",
	InvalidMinorVersion:     "INVALID_MINOR_VERSION",
	InvalidExchangeType:     "INVALID_EXCHANGE_TYPE",
	InvalidFlags:            "INVALID_FLAGS",
	InvalidMessageID:        "INVALID_MESSAGE_ID",
	InvalidProtocolID:       "INVALID_PROTOCOL_ID",
	InvalidSPI:              "INVALID_SPI",
	InvalidTransformID:      "INVALID_TRANSFORM_ID",
	AttributesNotSupported:  "ATTRIBUTES_NOT_SUPPORTED",
	NoProposalChosen:        "NO_PROPOSAL_CHOSEN",
	BadProposalSyntax:       "BAD_PROPOSAL_SYNTAX",
	PayloadMalformed:        "PAYLOAD_MALFORMED",
	InvalidKeyInformation:   "INVALID_KEY_INFORMATION",
	InvalidIDInformation:    "INVALID_ID_INFORMATION",
	InvalidCertEncoding:     "INVALID_CERT_ENCODING",
	InvalidCertificate:      "INVALID_CERTIFICATE",
	CertTypeUnsupported:     "CERT_TYPE_UNSUPPORTED",
	InvalidCertAuthority:    "INVALID_CERT_AUTHORITY",
	InvalidHashInformation:  "INVALID_HASH_INFORMATION",
	AuthenticationFailed:    "AUTHENTICATION_FAILED",
	InvalidSignature:        "INVALID_SIGNATURE",
	AddressNotification:     "ADDRESS_NOTIFICATION",
	NotifySALifetime:        "NOTIFY_SA_LIFETIME",
	CertificateUnavailable:  "CERTIFICATE_UNAVAILABLE",
	UnsupportedExchangeType: "UNSUPPORTED_EXCHANGE_TYPE",
	UnequalPayloadLengths:   "UNEQUAL_PAYLOAD_LENGTHS",
	Connected:               "CONNECTED",
	ResponderLifetime:       "RESPONDER_LIFETIME",
	ReplayStatus:            "REPLAY_STATUS",
	InitialContact:          "INITIAL_CONTACT",
	RUThere:                 "R_U_THERE",
	RUThereAck:              "R_U_THERE_ACK",
	ParallelSA:              "PARALLEL_SA",
}
