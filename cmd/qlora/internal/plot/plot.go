// Package plot draws line plots as SVG.
package plot

import (
	"fmt"
	"html"
	"io"
	"math"
	"strconv"
	"strings"
)

// Series is a line through points, drawn in the order given.
type Series struct {
	Name string
	X, Y []float64
	Mark bool // points only
}

const (
	width, height            = 720, 400
	left, right, top, bottom = 64, 20, 44, 52
)

// colours are distinct to people who do not see red and green apart (Okabe and Ito).
var colours = []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7"}

// Lines draws the series over common axes. Points that are not finite are left out.
func Lines(w io.Writer, title, xLabel, yLabel string, series []Series) error {
	var xs, ys []float64
	for _, s := range series {
		for i := range s.X {
			if finite(s.X[i]) && finite(s.Y[i]) {
				xs, ys = append(xs, s.X[i]), append(ys, s.Y[i])
			}
		}
	}
	if len(xs) == 0 {
		return fmt.Errorf("plot %q: no points", title)
	}
	x, y := newAxis(xs, left, width-right), newAxis(ys, height-bottom, top)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="sans-serif" font-size="12" fill="#333">`+"\n",
		width, height, width, height)
	b.WriteString(`<rect width="100%" height="100%" fill="#fff"/>` + "\n")
	text(&b, left, 24, "start", `font-size="15" font-weight="bold"`, title)
	drawGrid(&b, x, y)
	text(&b, (left+width-right)/2, height-12, "middle", "", xLabel)
	fmt.Fprintf(&b, `<text transform="translate(16 %d) rotate(-90)" text-anchor="middle">%s</text>`+"\n", (top+height-bottom)/2, html.EscapeString(yLabel))
	for i, s := range series {
		drawSeries(&b, s, colours[i%len(colours)], x, y)
	}
	drawLegend(&b, series)
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// axis maps values to pixels.
type axis struct {
	low, high, step float64
	from, to        float64
}

// newAxis ends at multiples of a step of 1, 2 or 5 times a power of ten, of which there are about five.
func newAxis(values []float64, from, to float64) axis {
	low, high := values[0], values[0]
	for _, v := range values {
		low, high = min(low, v), max(high, v)
	}
	if low == high {
		low, high = low-1, high+1
	}
	step := math.Pow(10, math.Floor(math.Log10((high-low)/5)))
	for _, m := range []float64{2, 2.5, 2} {
		if (high-low)/step > 6 {
			step *= m
		}
	}
	return axis{step * math.Floor(low/step), step * math.Ceil(high/step), step, from, to}
}

func (a axis) at(v float64) float64 { return a.from + (v-a.low)/(a.high-a.low)*(a.to-a.from) }

func (a axis) ticks() (t []float64) {
	for i := 0; i <= int(math.Round((a.high-a.low)/a.step)); i++ {
		t = append(t, a.low+float64(i)*a.step)
	}
	return t
}

// label writes a tick without the noise of its last bits.
func (a axis) label(v float64) string {
	decimals := max(0, int(math.Ceil(-math.Log10(a.step)-1e-9)))
	return strconv.FormatFloat(v, 'f', decimals, 64)
}

func text(b *strings.Builder, x, y float64, anchor, style, s string) {
	fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="%s" %s>%s</text>`+"\n", x, y, anchor, style, html.EscapeString(s))
}

func drawGrid(b *strings.Builder, x, y axis) {
	for _, v := range y.ticks() {
		fmt.Fprintf(b, `<path d="M%d %.1fH%d" stroke="#ddd"/>`+"\n", left, y.at(v), width-right)
		text(b, left-8, y.at(v)+4, "end", "", y.label(v))
	}
	for _, v := range x.ticks() {
		fmt.Fprintf(b, `<path d="M%.1f %dv5" stroke="#888"/>`+"\n", x.at(v), height-bottom)
		text(b, x.at(v), height-bottom+18, "middle", "", x.label(v))
	}
	fmt.Fprintf(b, `<path d="M%d %dH%d" stroke="#888"/>`+"\n", left, height-bottom, width-right)
}

func drawSeries(b *strings.Builder, s Series, colour string, x, y axis) {
	var path strings.Builder
	for i := range s.X {
		if !finite(s.X[i]) || !finite(s.Y[i]) {
			continue
		}
		px, py := x.at(s.X[i]), y.at(s.Y[i])
		if s.Mark {
			fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="4.5" fill="%s"/>`+"\n", px, py, colour)
			continue
		}
		fmt.Fprintf(&path, "%s%.1f %.1f", map[bool]string{true: "M", false: "L"}[path.Len() == 0], px, py)
	}
	if path.Len() > 0 {
		fmt.Fprintf(b, `<path d="%s" fill="none" stroke="%s" stroke-width="2" stroke-linejoin="round"/>`+"\n", path.String(), colour)
	}
}

func drawLegend(b *strings.Builder, series []Series) {
	for i, s := range series {
		y := float64(top + 10 + 18*i)
		colour := colours[i%len(colours)]
		if s.Mark {
			fmt.Fprintf(b, `<circle cx="%d" cy="%.1f" r="4.5" fill="%s"/>`+"\n", width-right-150, y, colour)
		} else {
			fmt.Fprintf(b, `<path d="M%d %.1fh20" stroke="%s" stroke-width="2"/>`+"\n", width-right-160, y, colour)
		}
		text(b, width-right-132, y+4, "start", "", s.Name)
	}
}
