// SPDX-License-Identifier: Apache-2.0

package swanctl

import (
	"bufio"
	"io"
	"strings"
)

// documenter is a table that prints itself.
type documenter interface {
	document(w *bufio.Writer, path string)
}

// form says what all values have in common.
const form = "Each key stands with its sections before it and its default in brackets behind it; " +
	"what is in angle brackets is a name of your own. Times are in seconds, or have s, m, h or d " +
	"behind the number; bytes may have k, M or G, which are powers of 1024. yes may also be " +
	"written true, enabled or 1, and no false, disabled or 0. Lists are separated by commas. " +
	"\"We\" are the machine that reads the file."

// Document prints every key that is honoured, with its default and meaning,
// for swanctl.conf and quicksand.conf; then, in one line each, the keys that
// are understood and change nothing or are refused. It returns w's error.
func Document(w io.Writer) error {
	b := bufio.NewWriter(w)
	b.WriteString("swanctl.conf\n\n")
	wrap(b, form)
	rootTable.document(b, "")
	b.WriteString("quicksand.conf\n\n")
	settingsRoot.document(b, "")
	return b.Flush()
}

func (tab *table[T]) document(w *bufio.Writer, path string) {
	for _, k := range tab.keys {
		if k.idle {
			continue
		}
		def := k.def
		if def == "" {
			def = k.derived
		}
		w.WriteString(join(path, suffixed(k.name)) + " [" + def + "]\n")
		wrap(w, k.doc)
	}
	var idle []string
	for _, k := range tab.keys {
		if k.idle {
			idle = append(idle, suffixed(k.name))
		}
	}
	for _, s := range tab.subs {
		if s.inner == nil && s.doc != "" {
			idle = append(idle, suffixed(s.name)+" {}")
		}
	}
	if len(idle) > 0 {
		whose := "sections"
		if path != "" {
			whose = join(path, "*")
		}
		w.WriteString("Of strongSwan's " + whose + ", these are accepted where they change nothing, else refused:\n")
		wrap(w, strings.Join(idle, ", "))
	}
	for _, s := range tab.subs {
		if s.inner == nil {
			continue
		}
		w.WriteString(join(path, suffixed(s.name)) + " {}\n")
		wrap(w, s.doc)
		s.inner.document(w, join(path, suffixed(s.name)))
	}
}

// suffixed writes a name as the manual pages do: any suffix is "<suffix>".
func suffixed(name string) string {
	if n, ok := strings.CutSuffix(name, "*"); ok {
		return n + "<suffix>"
	}
	return name
}

// wrap prints a paragraph, indented, in lines of at most 80 characters.
func wrap(w *bufio.Writer, text string) {
	column := 0
	for word := range strings.FieldsSeq(text) {
		if column > 0 && column+1+len(word) > 80 {
			w.WriteByte('\n')
			column = 0
		}
		if column == 0 {
			w.WriteString("   ")
			column = 3
		}
		w.WriteString(" " + word)
		column += 1 + len(word)
	}
	w.WriteString("\n\n")
}
