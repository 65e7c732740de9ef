// Package plot draws line plots as SVG.
package plot

import (
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Series is a line through points, drawn in the order given; X and Y are of one length.
type Series struct {
	Name  string
	X, Y  []float64
	Mark  bool // points only
	Faint bool // a thin, pale line, behind what matters
}

// frame is a picture's size, the margins around the axes, in pixels, and whether the series are named.
type frame struct {
	width, height            int
	left, right, top, bottom int
	legend                   bool
}

var (
	large = frame{720, 400, 84, 24, 66, 52, true}
	small = frame{400, 250, 72, 14, 44, 46, false}
)

// colours are distinct to people who do not see red and green apart (Okabe and Ito).
var colours = []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7"}

// Lines draws the series over common axes. Points that are not finite are left out; a line of one point is a dot.
func Lines(w io.Writer, title, xLabel, yLabel string, series []Series) error {
	return large.draw(w, title, xLabel, yLabel, series)
}

// Small draws one series, which the title names, in about a third of the area.
func Small(w io.Writer, title, xLabel, yLabel string, s Series) error {
	return small.draw(w, title, xLabel, yLabel, []Series{s})
}

func (f frame) draw(w io.Writer, title, xLabel, yLabel string, series []Series) error {
	var xs, ys []float64
	for _, s := range series {
		if len(s.X) != len(s.Y) {
			return fmt.Errorf("plot %q: series %q has %d x and %d y", title, s.Name, len(s.X), len(s.Y))
		}
		for i := range s.X {
			if finite(s.X[i]) && finite(s.Y[i]) {
				xs, ys = append(xs, s.X[i]), append(ys, s.Y[i])
			}
		}
	}
	if len(xs) == 0 {
		return fmt.Errorf("plot %q: no points", title)
	}
	x := newAxis(xs, float64(f.left), float64(f.width-f.right))
	y := newAxis(ys, float64(f.height-f.bottom), float64(f.top))
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" `+
		`font-family="system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif" font-size="12" fill="#444">`+"\n", f.width, f.height, f.width, f.height)
	fmt.Fprintf(&b, "<title>%s</title>\n", escape(title))
	b.WriteString(`<rect width="100%" height="100%" fill="#fff"/>` + "\n")
	text(&b, float64(f.left), 27, "start", `font-size="16" font-weight="600" fill="#111"`, title)
	f.drawGrid(&b, x, y)
	text(&b, float64(f.left+f.width-f.right)/2, float64(f.height-12), "middle", "", xLabel)
	fmt.Fprintf(&b, `<text transform="translate(16 %d) rotate(-90)" text-anchor="middle">%s</text>`+"\n", (f.top+f.height-f.bottom)/2, escape(yLabel))
	for i, s := range series {
		drawSeries(&b, s, colours[i%len(colours)], x, y)
	}
	if f.legend {
		f.drawLegend(&b, series)
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// finite leaves room for differences of two values.
func finite(v float64) bool { return math.Abs(v) <= 1e300 }

// escape makes any string text of XML.
func escape(s string) string {
	var b strings.Builder
	xml.EscapeText(&b, []byte(s)) // a Builder takes everything
	return b.String()
}

// axis maps values to pixels.
type axis struct {
	low, high, step float64
	from, to        float64
}

// newAxis ends at multiples of a step of 1, 2 or 5 times a power of ten, of which there are about five. Whole numbers have
// whole steps.
func newAxis(values []float64, from, to float64) axis {
	low, high, whole := values[0], values[0], true
	for _, v := range values {
		low, high, whole = min(low, v), max(high, v), whole && v == math.Trunc(v)
	}
	// Ticks closer than a millionth of the values would need labels too long to read.
	if size := max(math.Abs(low), math.Abs(high)); high-low <= max(1e-6*size, 1e-300) {
		pad := max(size/8, 1e-300)
		if whole {
			pad = max(pad, 1)
		}
		low, high = low-pad, high+pad
	}
	step := math.Pow(10, math.Floor(math.Log10((high-low)/5)))
	if whole {
		step = max(step, 1)
	}
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

// label writes a tick to the digits of the step, with an exponent where it would be long.
func (a axis) label(v float64) string {
	if v = a.step * math.Round(v/a.step); v == 0 {
		return "0"
	}
	largest := max(math.Abs(a.low), math.Abs(a.high))
	if largest >= 1e6 || a.step < 1e-5 {
		return strconv.FormatFloat(v, 'e', magnitude(math.Abs(v))-magnitude(a.step), 64)
	}
	return strconv.FormatFloat(v, 'f', max(0, -magnitude(a.step)), 64)
}

// magnitude is the power of ten of v's first digit, for v that is a small multiple of a power of ten but for rounding.
func magnitude(v float64) int { return int(math.Floor(math.Log10(v) + 1e-9)) }

func text(b *strings.Builder, x, y float64, anchor, style, s string) {
	fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="%s" %s>%s</text>`+"\n", x, y, anchor, style, escape(s))
}

func (f frame) drawGrid(b *strings.Builder, x, y axis) {
	for _, v := range y.ticks() {
		fmt.Fprintf(b, `<path d="M%d %.1fH%d" stroke="#e4e4e4"/>`+"\n", f.left, y.at(v), f.width-f.right)
		text(b, float64(f.left-8), y.at(v)+4, "end", "", y.label(v))
	}
	for _, v := range x.ticks() {
		fmt.Fprintf(b, `<path d="M%.1f %dv5" stroke="#888"/>`+"\n", x.at(v), f.height-f.bottom)
		text(b, x.at(v), float64(f.height-f.bottom+18), "middle", "", x.label(v))
	}
	fmt.Fprintf(b, `<path d="M%d %dH%d" stroke="#888"/>`+"\n", f.left, f.height-f.bottom, f.width-f.right)
}

func drawSeries(b *strings.Builder, s Series, colour string, x, y axis) {
	var points []string
	for i := range s.X {
		if finite(s.X[i]) && finite(s.Y[i]) {
			points = append(points, fmt.Sprintf("%.1f %.1f", x.at(s.X[i]), y.at(s.Y[i])))
		}
	}
	if s.Mark || len(points) == 1 {
		for _, p := range points {
			fmt.Fprintf(b, `<g transform="translate(%s)">%s</g>`+"\n", p, dot(colour))
		}
		return
	}
	fmt.Fprintf(b, `<polyline points="%s" fill="none" stroke="%s" %s stroke-linejoin="round" stroke-linecap="round"/>`+"\n",
		strings.Join(points, " "), colour, s.pen())
}

func (s Series) pen() string {
	if s.Faint {
		return `stroke-width="1" opacity="0.4"`
	}
	return `stroke-width="2"`
}

func dot(colour string) string {
	return fmt.Sprintf(`<circle r="5" fill="%s" stroke="#fff" stroke-width="1.5"/>`, colour)
}

// drawLegend names the series in a row under the title, where no line can run into it.
func (f frame) drawLegend(b *strings.Builder, series []Series) {
	x := f.left
	for i, s := range series {
		colour := colours[i%len(colours)]
		sample := fmt.Sprintf(`<path d="M-10 0h20" stroke="%s" %s/>`, colour, s.pen())
		if s.Mark {
			sample = dot(colour)
		}
		fmt.Fprintf(b, `<g transform="translate(%d %d)">%s</g>`+"\n", x+10, f.top-20, sample)
		text(b, float64(x+28), float64(f.top-16), "start", "", s.Name)
		x += 28 + 7*utf8.RuneCountInString(s.Name) + 24 // a letter is about 7 wide
	}
}
