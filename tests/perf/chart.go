// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"html"
	"slices"
	"strings"
)

// series is a line of a chart: a value for each place on its axis.
type series struct {
	name   string
	values map[string]float64
}

// charts draws the rows that belong to a chart, by its name: one line for each
// of our series and each peer.
func charts(rows []Row) map[string]string {
	type chart struct {
		unit  string
		xs    []string
		lines []*series
	}
	all := map[string]*chart{}
	for _, r := range rows {
		if r.chart == "" {
			continue
		}
		c := all[r.chart]
		if c == nil {
			c = &chart{unit: r.Unit}
			all[r.chart] = c
		}
		if !slices.Contains(c.xs, r.x) {
			c.xs = append(c.xs, r.x)
		}
		for name, v := range map[string]float64{r.series: r.Ours, r.PeerName: r.Peer} {
			i := slices.IndexFunc(c.lines, func(s *series) bool { return s.name == name })
			if i < 0 {
				c.lines = append(c.lines, &series{name, map[string]float64{}})
				i = len(c.lines) - 1
			}
			c.lines[i].values[r.x] = v
		}
	}
	out := map[string]string{}
	for name, c := range all {
		slices.SortFunc(c.lines, func(a, b *series) int { return strings.Compare(a.name, b.name) })
		out[name] = draw(name, c.unit, c.xs, c.lines)
	}
	return out
}

var colours = []string{"#0b6e99", "#d9730d", "#4d6461", "#ad1a72", "#6940a5", "#e03e3e", "#0f7b6c", "#937264"}

// draw makes an SVG of 720 by 400 pixels.
func draw(title, unit string, xs []string, lines []*series) string {
	const left, top, width, height = 70.0, 50.0, 430.0, 290.0
	most := 0.0
	for _, l := range lines {
		for _, v := range l.values {
			most = max(most, v)
		}
	}
	x := func(i int) float64 { return left + width*(float64(i)+0.5)/float64(len(xs)) }
	y := func(v float64) float64 { return top + height*(1-v/most) }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 400" font-family="sans-serif" font-size="12">`+"\n")
	fmt.Fprintf(&b, `<rect width="720" height="400" fill="white"/><text x="%g" y="24" font-size="15">%s (%s)</text>`+"\n", left, html.EscapeString(title), html.EscapeString(unit))
	for i := range 5 {
		v := most * float64(i) / 4
		fmt.Fprintf(&b, `<line x1="%g" x2="%g" y1="%.1f" y2="%.1f" stroke="#ddd"/><text x="%g" y="%.1f" text-anchor="end">%s</text>`+"\n",
			left, left+width, y(v), y(v), left-8, y(v)+4, number(v))
	}
	for i, name := range xs {
		fmt.Fprintf(&b, `<text x="%.1f" y="%g" text-anchor="middle">%s</text>`+"\n", x(i), top+height+20, html.EscapeString(name))
	}
	for n, l := range lines {
		colour := colours[n%len(colours)]
		var points []string
		for i, name := range xs {
			if v, ok := l.values[name]; ok {
				points = append(points, fmt.Sprintf("%.1f,%.1f", x(i), y(v)))
				fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`+"\n", x(i), y(v), colour)
			}
		}
		fmt.Fprintf(&b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", strings.Join(points, " "), colour)
		fmt.Fprintf(&b, `<text x="%g" y="%g" fill="%s">%s</text>`+"\n", left+width+15, top+14+18*float64(n), colour, html.EscapeString(l.name))
	}
	b.WriteString("</svg>\n")
	return b.String()
}
