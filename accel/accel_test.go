// SPDX-License-Identifier: Apache-2.0

package accel

import (
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/cpuid/v2"
)

// without answers as a CPU that has every feature but those named.
func without(missing ...cpuid.FeatureID) CPU {
	return detect(func(id cpuid.FeatureID) bool { return !slices.Contains(missing, id) })
}

func TestDetectNeedsEveryPart(t *testing.T) {
	all := without()
	for _, s := range all.Support() {
		if !s.OK || s.Reason == "" {
			t.Errorf("%s on a CPU with everything: %+v", s.Feature, s)
		}
		for _, id := range needs[s.Feature].ids {
			c := without(id)
			if c.Has(s.Feature) {
				t.Errorf("%s is there without %s", s.Feature, id)
			}
			if r := c.Support()[s.Feature].Reason; !strings.Contains(r, "no "+id.String()) {
				t.Errorf("reason for no %s is %q, which does not name %s", s.Feature, r, id)
			}
		}
	}
}

func TestWideVAESNeedsMoreThanItsBit(t *testing.T) {
	c := without(cpuid.AVX512F)
	if c.Has(VAES512) || c.Has(IFMA) {
		t.Error("512-bit kernels on a CPU with no AVX512F")
	}
	if !c.Has(VAES256) || !c.Has(AESNI) {
		t.Error("AVX512F is no part of the 256-bit and 128-bit forms")
	}
	if r := c.Support()[VAES512].Reason; !strings.Contains(r, "operating system") {
		t.Errorf("the reason %q leaves out that the operating system may be the cause", r)
	}
}

func TestLevels(t *testing.T) {
	narrowed := without()
	narrowed.narrowed = true
	for _, c := range []struct {
		name string
		cpu  CPU
		want []Level
	}{
		{"everything", without(), []Level{LevelVAES512, LevelVAES256, LevelAESNI, LevelGeneric}},
		{"512 bits lower the clock", narrowed, []Level{LevelVAES256, LevelVAES512, LevelAESNI, LevelGeneric}},
		{"no AVX512VL", without(cpuid.AVX512VL), []Level{LevelVAES256, LevelAESNI, LevelGeneric}},
		{"no VAES", without(cpuid.VAES), []Level{LevelAESNI, LevelGeneric}},
		{"no carry-less multiplication", without(cpuid.CLMUL), []Level{LevelGeneric}},
	} {
		if got := c.cpu.Levels(); !slices.Equal(got, c.want) {
			t.Errorf("%s: levels %v, want %v", c.name, got, c.want)
		}
	}
}

func TestVariable(t *testing.T) {
	narrowed := without()
	narrowed.narrowed = true
	for _, c := range []struct {
		value string
		cpu   CPU
		want  []Level
	}{
		{"", without(), []Level{LevelVAES512, LevelVAES256, LevelAESNI, LevelGeneric}},
		{"fast", without(), []Level{LevelVAES512, LevelVAES256, LevelAESNI, LevelGeneric}},
		{"vaes512", without(), []Level{LevelVAES512, LevelVAES256, LevelAESNI, LevelGeneric}},
		{"vaes512", narrowed, []Level{LevelVAES512, LevelVAES256, LevelAESNI, LevelGeneric}},
		{"vaes512", without(cpuid.VAES), []Level{LevelAESNI, LevelGeneric}},
		{"vaes256", without(), []Level{LevelVAES256, LevelAESNI, LevelGeneric}},
		{"aesni", without(), []Level{LevelAESNI, LevelGeneric}},
		{"generic", without(), []Level{LevelGeneric}},
	} {
		cpu := c.cpu.limit(c.value)
		if got := cpu.Levels(); !slices.Equal(got, c.want) {
			t.Errorf("%q: levels %v, want %v", c.value, got, c.want)
		}
		if cpu.Has(IFMA) == (c.value == "generic") {
			t.Errorf("%q: IFMA is %v", c.value, cpu.Has(IFMA))
		}
	}
	r := without().limit("aesni").Support()[VAES256].Reason
	if !strings.Contains(r, Variable) || !strings.Contains(r, "aesni") {
		t.Errorf("the reason %q leaves out the variable", r)
	}
	t.Setenv(Variable, "generic")
	if got := Detect().Levels(); !slices.Equal(got, []Level{LevelGeneric}) {
		t.Errorf("levels %v where the environment says generic", got)
	}
}

// The kernel lists a flag in /proc/cpuinfo only where it also saves the
// registers that go with it, so it is a second opinion on our answers.
func TestDetectAgreesWithKernel(t *testing.T) {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	flags := map[string]bool{}
	for line := range strings.SplitSeq(string(info), "\n") {
		if rest, ok := strings.CutPrefix(line, "flags"); ok {
			for _, f := range strings.Fields(rest) {
				flags[f] = true
			}
			break
		}
	}
	want := map[Feature][]string{
		AESNI:   {"ssse3", "sse4_1", "avx", "aes", "pclmulqdq"},
		VAES256: {"avx2", "vaes", "vpclmulqdq"},
		VAES512: {"vaes", "vpclmulqdq", "avx512f", "avx512bw", "avx512vl", "avx512dq"},
		IFMA:    {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512ifma"},
		ADX:     {"adx", "bmi2"},
		SHANI:   {"sha_ni"},
		AVX2:    {"avx2"},
		AVX512:  {"avx512f", "avx512bw", "avx512vl", "avx512dq"},
	}
	t.Setenv(Variable, "")
	cpu := Detect()
	for f, names := range want {
		kernel := true
		for _, n := range names {
			kernel = kernel && flags[n]
		}
		if kernel != cpu.Has(f) {
			t.Errorf("%s: the kernel says %v, Detect %v", f, kernel, cpu.Has(f))
		}
	}
	if runtime.GOARCH == "amd64" && cpu.Name == "" {
		t.Error("the processor has no name")
	}
}

func TestParseCPUs(t *testing.T) {
	for _, c := range []struct {
		in   string
		want []int
		out  string
	}{
		{"", nil, ""},
		{" ", nil, ""},
		{"0", []int{0}, "0"},
		{"0,2-3", []int{0, 2, 3}, "0,2-3"},
		{"3, 1 - 2,2\n", []int{1, 2, 3}, "1-3"},
		{"7-7", []int{7}, "7"},
		{"1023", []int{1023}, "1023"},
	} {
		got, err := ParseCPUs(c.in)
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("ParseCPUs(%q) = %v, %v, want %v", c.in, got, err, c.want)
		}
		if s := FormatCPUs(got); s != c.out {
			t.Errorf("FormatCPUs(%v) = %q, want %q", got, s, c.out)
		}
	}
	for _, bad := range []string{",", "0,", "a", "-1", "1-", "3-2", "1024", "0-99999", "1-2-3", "0x1"} {
		if got, err := ParseCPUs(bad); err == nil {
			t.Errorf("ParseCPUs(%q) = %v, want an error", bad, got)
		}
	}
}

func FuzzParseCPUs(f *testing.F) {
	f.Add("0,2-3")
	f.Add("1-1023")
	f.Add(" 5 ,4")
	f.Fuzz(func(t *testing.T, s string) {
		cpus, err := ParseCPUs(s)
		if err != nil {
			return
		}
		again, err := ParseCPUs(FormatCPUs(cpus))
		if err != nil || !slices.Equal(cpus, again) {
			t.Errorf("%v came back as %v, %v", cpus, again, err)
		}
	})
}
