// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// Chart is a chart of lines, each with a value for some of the places on the
// axis.
type Chart struct {
	Title, Unit string
	places      []string
	lines       []line
}

type line struct {
	name   string
	values map[string]float64
}

// Add adds a value to a line. Places come in the order in which they are named
// first.
func (c *Chart) Add(name, place string, value float64) {
	if !slices.Contains(c.places, place) {
		c.places = append(c.places, place)
	}
	i := slices.IndexFunc(c.lines, func(l line) bool { return l.name == name })
	if i < 0 {
		i = len(c.lines)
		c.lines = append(c.lines, line{name, map[string]float64{}})
	}
	c.lines[i].values[place] = value
}

// Number prints three significant digits, or a whole number where it is large.
func Number(v float64) string {
	if v == 0 || math.IsInf(v, 0) || math.IsNaN(v) {
		return fmt.Sprint(v)
	}
	if math.Abs(v) >= 1000 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.*f", max(0, 2-int(math.Floor(math.Log10(math.Abs(v))))), v)
}

var colours = []string{"#0b6e99", "#d9730d", "#4d6461", "#ad1a72", "#6940a5", "#e03e3e", "#0f7b6c", "#937264"}

// SVG draws the chart in 720 by 400 pixels.
func (c *Chart) SVG() string {
	lines := slices.Clone(c.lines)
	slices.SortFunc(lines, func(a, b line) int { return strings.Compare(a.name, b.name) })
	const left, top, width, height = 70.0, 50.0, 430.0, 290.0
	most := 0.0
	for _, l := range lines {
		for _, v := range l.values {
			most = max(most, v)
		}
	}
	if most == 0 {
		most = 1
	}
	x := func(i int) float64 { return left + width*(float64(i)+0.5)/float64(len(c.places)) }
	y := func(v float64) float64 { return top + height*(1-v/most) }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 400" font-family="sans-serif" font-size="12">`+"\n")
	fmt.Fprintf(&b, `<rect width="720" height="400" fill="white"/><text x="%g" y="24" font-size="15">%s (%s)</text>`+"\n", left, html.EscapeString(c.Title), html.EscapeString(c.Unit))
	for i := range 5 {
		v := most * float64(i) / 4
		fmt.Fprintf(&b, `<line x1="%g" x2="%g" y1="%.1f" y2="%.1f" stroke="#ddd"/><text x="%g" y="%.1f" text-anchor="end">%s</text>`+"\n",
			left, left+width, y(v), y(v), left-8, y(v)+4, Number(v))
	}
	for i, name := range c.places {
		fmt.Fprintf(&b, `<text x="%.1f" y="%g" text-anchor="middle">%s</text>`+"\n", x(i), top+height+20, html.EscapeString(name))
	}
	for n, l := range lines {
		colour := colours[n%len(colours)]
		var points []string
		for i, name := range c.places {
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
