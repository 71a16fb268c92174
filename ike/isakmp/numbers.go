// SPDX-License-Identifier: Apache-2.0

package isakmp

// PayloadType is the type of a payload (RFC 2408 section 3.1, RFC 3947).
type PayloadType uint8

// The payload types.
const (
	NoPayload          PayloadType = 0
	PayloadSA          PayloadType = 1
	PayloadProposal    PayloadType = 2
	PayloadTransform   PayloadType = 3
	PayloadKE          PayloadType = 4
	PayloadID          PayloadType = 5
	PayloadCert        PayloadType = 6
	PayloadCertRequest PayloadType = 7
	PayloadHash        PayloadType = 8
	PayloadSignature   PayloadType = 9
	PayloadNonce       PayloadType = 10
	PayloadNotify      PayloadType = 11
	PayloadDelete      PayloadType = 12
	PayloadVendorID    PayloadType = 13
	PayloadAttributes  PayloadType = 14 // ISAKMP-Config, draft-ietf-ipsec-isakmp-mode-cfg
	PayloadNATD        PayloadType = 20
	PayloadNATOA       PayloadType = 21
	PayloadNATDDraft   PayloadType = 130 // draft-ietf-ipsec-nat-t-ike-02 and -03
	PayloadNATOADraft  PayloadType = 131
	PayloadFragment    PayloadType = 132
)

// ExchangeType is the type of an exchange (RFC 2408 section 3.1, RFC 2409
// appendix A).
type ExchangeType uint8

// The exchange types.
const (
	MainMode      ExchangeType = 2
	Aggressive    ExchangeType = 4
	Informational ExchangeType = 5
	Transaction   ExchangeType = 6
	QuickMode     ExchangeType = 32
	NewGroupMode  ExchangeType = 33
)

// ProtocolID is a protocol of the IPsec DOI (RFC 2407 section 4.4.1).
type ProtocolID uint8

// The protocols.
const (
	ProtoISAKMP ProtocolID = 1
	ProtoAH     ProtocolID = 2
	ProtoESP    ProtocolID = 3
	ProtoIPCOMP ProtocolID = 4
)

// DOIIPsec is the IPsec DOI, and SituationIdentityOnly its situation (RFC 2407
// sections 4.1 and 4.2.1).
const (
	DOIIPsec              = 1
	SituationIdentityOnly = 1
)

// KeyIKE is the transform id KEY_IKE of phase 1 (RFC 2407 section 4.4.2).
const KeyIKE = 1

// Attributes of an IKE SA (RFC 2409 appendix A).
const (
	AttrEncryption    = 1
	AttrHash          = 2
	AttrAuthMethod    = 3
	AttrGroup         = 4
	AttrGroupType     = 5
	AttrGroupPrime    = 6
	AttrGroupGenOne   = 7
	AttrGroupGenTwo   = 8
	AttrGroupCurveA   = 9
	AttrGroupCurveB   = 10
	AttrLifeType      = 11
	AttrLifeDuration  = 12
	AttrPRF           = 13
	AttrKeyLength     = 14
	AttrFieldSize     = 15
	AttrGroupOrder    = 16
	LifeSeconds       = 1
	LifeKilobytes     = 2
	AuthPSK           = 1
	CipherTripleDES   = 5
	CipherAES         = 7
	HashMD5           = 1
	HashSHA1          = 2
	HashSHA256        = 4
	HashSHA384        = 5
	HashSHA512        = 6
	AuthXAuthInitPSK  = 65001
	AuthXAuthRespPSK  = 65002
	AuthRSASignature  = 3
	AuthECDSA256      = 9
	AuthHybridInitRSA = 64221
)

// ESP transform ids (RFC 2407 section 4.4.4, RFC 3602, RFC 3686, RFC 4106).
const (
	ESPTripleDES = 3
	ESPNull      = 11
	ESPAESCBC    = 12
	ESPAESCTR    = 13
	ESPAESGCM8   = 18
	ESPAESGCM12  = 19
	ESPAESGCM16  = 20
)

// AH transform ids (RFC 2407 section 4.4.3, RFC 4868).
const (
	AHMD5    = 2
	AHSHA1   = 3
	AHSHA256 = 5
	AHSHA384 = 6
	AHSHA512 = 7
)

// Attributes of an IPsec SA (RFC 2407 section 4.5, RFC 4304) and their values.
const (
	AttrSALifeType       = 1
	AttrSALifeDuration   = 2
	AttrSAGroup          = 3
	AttrEncapsulation    = 4
	AttrAuthAlgorithm    = 5
	AttrSAKeyLength      = 6
	AttrSAKeyRounds      = 7
	AttrCompressDictSize = 8
	AttrCompressPrivate  = 9
	AttrECNTunnel        = 10 // RFC 3168 section 9.2.1.2
	AttrESN              = 11 // 1: 64-bit sequence numbers
	EncapTunnel          = 1
	EncapTransport       = 2
	EncapUDPTunnel       = 3 // RFC 3947 section 5.1
	EncapUDPTransport    = 4
	EncapUDPTunnel02     = 61443 // the -02 and -03 drafts
	EncapUDPTransport02  = 61444
	AuthHMACMD5          = 1
	AuthHMACSHA1         = 2
	AuthHMACSHA256       = 5
	AuthHMACSHA384       = 6
	AuthHMACSHA512       = 7
)

// IDType is the type of an identification (RFC 2407 section 4.6.2.1).
type IDType uint8

// The identification types.
const (
	IDIPv4Addr   IDType = 1
	IDFQDN       IDType = 2
	IDUserFQDN   IDType = 3
	IDIPv4Subnet IDType = 4
	IDIPv6Addr   IDType = 5
	IDIPv6Subnet IDType = 6
	IDIPv4Range  IDType = 7
	IDIPv6Range  IDType = 8
	IDDERASN1DN  IDType = 9
	IDDERASN1GN  IDType = 10
	IDKeyID      IDType = 11
)

// NotifyType is the type of a notification (RFC 2408 section 3.14.1, RFC 2407
// section 4.6.3, RFC 3706).
type NotifyType uint16

// The notification types.
const (
	InvalidPayloadType      NotifyType = 1
	DOINotSupported         NotifyType = 2
	SituationNotSupported   NotifyType = 3
	InvalidCookie           NotifyType = 4
	InvalidMajorVersion     NotifyType = 5
	InvalidMinorVersion     NotifyType = 6
	InvalidExchangeType     NotifyType = 7
	InvalidFlags            NotifyType = 8
	InvalidMessageID        NotifyType = 9
	InvalidProtocolID       NotifyType = 10
	InvalidSPI              NotifyType = 11
	InvalidTransformID      NotifyType = 12
	AttributesNotSupported  NotifyType = 13
	NoProposalChosen        NotifyType = 14
	BadProposalSyntax       NotifyType = 15
	PayloadMalformed        NotifyType = 16
	InvalidKeyInformation   NotifyType = 17
	InvalidIDInformation    NotifyType = 18
	InvalidCertEncoding     NotifyType = 19
	InvalidCertificate      NotifyType = 20
	CertTypeUnsupported     NotifyType = 21
	InvalidCertAuthority    NotifyType = 22
	InvalidHashInformation  NotifyType = 23
	AuthenticationFailed    NotifyType = 24
	InvalidSignature        NotifyType = 25
	AddressNotification     NotifyType = 26
	NotifySALifetime        NotifyType = 27
	CertificateUnavailable  NotifyType = 28
	UnsupportedExchangeType NotifyType = 29
	UnequalPayloadLengths   NotifyType = 30
	Connected               NotifyType = 16384
	ResponderLifetime       NotifyType = 24576
	ReplayStatus            NotifyType = 24577
	InitialContact          NotifyType = 24578
	RUThere                 NotifyType = 36136
	RUThereAck              NotifyType = 36137
	// ParallelSA is quicksand's own, of the private range; its data is one byte.
	ParallelSA NotifyType = 36350
)
