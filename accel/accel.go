// SPDX-License-Identifier: Apache-2.0

// Package accel tells what the CPU can do, with the reason where it cannot,
// and keeps threads on the CPUs meant for them (sched_setaffinity(2)).
package accel

import (
	"os"
	"strings"

	"github.com/klauspost/cpuid/v2"
)

// Feature is a set of instructions that one of our kernels needs as a whole.
type Feature uint8

// The features.
const (
	AESNI   Feature = iota // 128-bit AES and carry-less multiplication, VEX encoded
	VAES256                // the same on 256-bit registers, VEX encoded
	VAES512                // the same on 512-bit registers
	IFMA                   // AVX-512 52-bit integer multiply-add, 512-bit registers
	ADX                    // two carry chains: ADX with BMI2's MULX, and AVX2 to read tables
	SHANI                  // SHA-1 and SHA-256 rounds
	AVX2                   // integers on 256-bit registers
	AVX512                 // the same on 512-bit registers, with masks and rotations
	features
)

// An instruction's own CPUID bit says nothing of the width it works at: VAES
// and VPCLMULQDQ at 512 bits also need AVX512F, the same with masks on bytes,
// words and shorter registers BW, DQ and VL. cpuid answers for an AVX-512 bit
// only where XCR0 says that the operating system saves the mask, ZMM and high
// ZMM registers, and for AVX and AVX2 only where it saves YMM (Intel SDM
// volume 1, sections 14.3 and 15.2).
var needs = [features]struct {
	name string
	ids  []cpuid.FeatureID
}{
	AESNI:   {"AES-NI", []cpuid.FeatureID{cpuid.SSSE3, cpuid.SSE4, cpuid.AVX, cpuid.AESNI, cpuid.CLMUL}},
	VAES256: {"VAES-256", []cpuid.FeatureID{cpuid.AESNI, cpuid.CLMUL, cpuid.AVX2, cpuid.VAES, cpuid.VPCLMULQDQ}},
	VAES512: {"VAES-512", []cpuid.FeatureID{cpuid.AESNI, cpuid.CLMUL, cpuid.AVX2, cpuid.VAES, cpuid.VPCLMULQDQ,
		cpuid.AVX512F, cpuid.AVX512BW, cpuid.AVX512VL, cpuid.AVX512DQ}},
	IFMA:   {"AVX512-IFMA", []cpuid.FeatureID{cpuid.AVX512F, cpuid.AVX512BW, cpuid.AVX512VL, cpuid.AVX512DQ, cpuid.AVX512IFMA}},
	ADX:    {"ADX", []cpuid.FeatureID{cpuid.ADX, cpuid.BMI2, cpuid.AVX2}},
	SHANI:  {"SHA-NI", []cpuid.FeatureID{cpuid.SSSE3, cpuid.SSE4, cpuid.SHA}},
	AVX2:   {"AVX2", []cpuid.FeatureID{cpuid.AVX2}},
	AVX512: {"AVX-512", []cpuid.FeatureID{cpuid.AVX512F, cpuid.AVX512BW, cpuid.AVX512VL, cpuid.AVX512DQ}},
}

// String returns the feature's name, as doctor and the log show it.
func (f Feature) String() string {
	if f < features {
		return needs[f].name
	}
	return "unknown feature"
}

// Support says whether a feature is there. Reason lists what was found, or
// what is missing.
type Support struct {
	Feature Feature
	OK      bool
	Reason  string
}

// CPU is what the machine's processor can do.
type CPU struct {
	Name     string // the processor's own name
	has      [features]Support
	narrowed bool
}

// Variable is the environment variable that makes less of the processor, for
// tests and comparisons: "generic" is the portable code, for AES as for
// everything else; "aesni", "vaes256" and "vaes512" are the best level of AES
// to be used where the processor has it, and that one also where it prefers
// another. Any other value counts for nothing. It is read before tests begin,
// so that go test needs -count=1 to take note of a change.
const Variable = "QUICKSAND_CPU"

// Detect asks the processor, and Variable what of it is to be used. The answer
// does not change while the process runs.
func Detect() CPU {
	c := detect(func(id cpuid.FeatureID) bool { return cpuid.CPU.Supports(id) })
	c.Name = cpuid.CPU.BrandName
	c.narrowed = cpuid.CPU.VendorID == cpuid.Intel && cpuid.CPU.Family == 6 && lowersClock[cpuid.CPU.Model]
	return c.limit(os.Getenv(Variable))
}

// limit takes away what Variable's value leaves out.
func (c CPU) limit(name string) CPU {
	best, ok := map[string]Level{
		"generic": LevelGeneric, "aesni": LevelAESNI, "vaes256": LevelVAES256, "vaes512": LevelVAES512,
	}[name]
	if !ok {
		return c
	}
	for f := range features {
		aes := f == AESNI || f == VAES256 || f == VAES512
		if c.has[f].OK && (best == LevelGeneric || aes && Level(f-AESNI)+LevelAESNI > best) {
			c.has[f] = Support{Feature: f, Reason: Variable + " is " + name}
		}
	}
	c.narrowed = c.narrowed && best != LevelVAES512
	return c
}

func detect(has func(cpuid.FeatureID) bool) CPU {
	var c CPU
	for f := range features {
		var found, missing []string
		for _, id := range needs[f].ids {
			if has(id) {
				found = append(found, id.String())
			} else {
				missing = append(missing, id.String())
			}
		}
		c.has[f] = Support{Feature: f, OK: len(missing) == 0, Reason: strings.Join(found, ", ")}
		if len(missing) > 0 {
			c.has[f].Reason = "no " + strings.Join(missing, ", no ")
			if strings.Contains(c.has[f].Reason, "AVX") {
				c.has[f].Reason += " (in the CPU, or the operating system does not save its registers)"
			}
		}
	}
	return c
}

// lowersClock holds the model numbers of Intel's family 6 on which 512-bit
// instructions lower the core's clock, and on which Linux's own AES therefore
// prefers 256-bit registers: Skylake-X, Ice Lake and Tiger Lake.
var lowersClock = map[int]bool{
	0x55: true,
	0x6a: true, 0x6c: true, 0x7d: true, 0x7e: true, 0x9d: true,
	0x8c: true, 0x8d: true,
}

// Has reports whether the CPU has the feature.
func (c CPU) Has(f Feature) bool { return f < features && c.has[f].OK }

// Prefer256 reports whether 512-bit instructions cost the rest of the core so
// much clock that 256-bit ones are the better choice for AES.
func (c CPU) Prefer256() bool { return c.narrowed }

// Support returns the answer and its reason for each feature.
func (c CPU) Support() []Support { return append([]Support(nil), c.has[:]...) }

// Level is how the CPU does AES-GCM at best; each level includes the ones
// below it.
type Level uint8

// The levels, worst first.
const (
	LevelGeneric Level = iota
	LevelAESNI
	LevelVAES256
	LevelVAES512
)

func (l Level) String() string {
	switch l {
	case LevelAESNI:
		return AESNI.String()
	case LevelVAES256:
		return VAES256.String()
	case LevelVAES512:
		return VAES512.String()
	}
	return "generic"
}

// Levels returns the levels that the CPU can run, best first: LevelVAES256
// comes before LevelVAES512 where the CPU prefers it. LevelGeneric is always
// the last.
func (c CPU) Levels() []Level {
	var l []Level
	if c.Has(VAES512) && !c.narrowed {
		l = append(l, LevelVAES512)
	}
	if c.Has(VAES256) {
		l = append(l, LevelVAES256)
	}
	if c.Has(VAES512) && c.narrowed {
		l = append(l, LevelVAES512)
	}
	if c.Has(AESNI) {
		l = append(l, LevelAESNI)
	}
	return append(l, LevelGeneric)
}
