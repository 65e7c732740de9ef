package plot

import (
	"encoding/xml"
	"io"
	"math"
	"strings"
	"testing"
)

// draw gives the picture, which has to be well-formed XML.
func draw(t *testing.T, title string, series ...Series) string {
	t.Helper()
	var b strings.Builder
	if err := Lines(&b, title, "step", "loss", series); err != nil {
		t.Fatal(err)
	}
	d := xml.NewDecoder(strings.NewReader(b.String()))
	for {
		if _, err := d.Token(); err == io.EOF {
			return b.String()
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func TestLines(t *testing.T) {
	got := draw(t, "loss < 5 & falling\x00",
		Series{Name: "train", X: []float64{1, 2, 3, 4}, Y: []float64{5, 4, math.NaN(), 3}},
		Series{Name: "held-out", X: []float64{4, 5}, Y: []float64{3.5, 3.25}, Mark: true})
	for _, want := range []string{
		"loss &lt; 5 &amp; falling\uFFFD",
		// The axes run from 1 to 5 over 612 pixels, and from 5 to 3 over 282: step 2 is at 84+612/4, loss 4 at 66+282/2.
		`points="84.0 66.0 237.0 207.0 543.0 348.0"`,
		`translate(696.0 312.8)`,
		">held-out</text>", ">loss</text>", ">step</text>",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

func TestOnePointIsADot(t *testing.T) {
	if got := draw(t, "", Series{X: []float64{1}, Y: []float64{2}}); !strings.Contains(got, "<circle") {
		t.Error(got)
	}
}

// No values make ticks too many, or numbers that SVG does not know.
func TestExtremes(t *testing.T) {
	values := []float64{0, 1, -1, 5e-324, 1e-300, 3, math.Nextafter(3, 4), 1e15, 1e300, -1e300, math.MaxFloat64, math.Inf(1), math.NaN()}
	for _, a := range values {
		for _, b := range values {
			got := draw(t, "", Series{X: []float64{0, 1, 2}, Y: []float64{a, b, 0.5}}, Series{X: []float64{a, 1}, Y: []float64{b, b}})
			if strings.Contains(got, "NaN") || strings.Contains(got, "Inf") {
				t.Errorf("%v, %v: %s", a, b, got)
			}
			if finite(a) && finite(b) {
				if n := len(newAxis([]float64{a, b}, 0, 1).ticks()); n < 2 || n > 9 {
					t.Errorf("%v, %v: %d ticks", a, b, n)
				}
			}
		}
	}
}

func TestTicks(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   string
	}{
		{[]float64{1, 60}, "0 10 20 30 40 50 60"},
		{[]float64{3.26, 4.89}, "3.0 3.5 4.0 4.5 5.0"},
		{[]float64{0, 0.0031}, "0 0.001 0.002 0.003 0.004"},
		{[]float64{1, 2, 3}, "1 2 3"},
		{[]float64{2.5}, "2.0 2.2 2.4 2.6 2.8 3.0"},
		{[]float64{-0.5, 0.5}, "-0.6 -0.4 -0.2 0 0.2 0.4 0.6"},
		{[]float64{0, 2.5e6}, "0 5e+05 1.0e+06 1.5e+06 2.0e+06 2.5e+06"},
		{[]float64{0, 3e-7}, "0 5e-08 1.0e-07 1.5e-07 2.0e-07 2.5e-07 3.0e-07"},
		{[]float64{7, 7}, "6 7 8"},
	} {
		a := newAxis(c.values, 0, 1)
		var labels []string
		for _, v := range a.ticks() {
			labels = append(labels, a.label(v))
		}
		if got := strings.Join(labels, " "); got != c.want {
			t.Errorf("%v: %s, want %s", c.values, got, c.want)
		}
	}
}

func TestNothingToDraw(t *testing.T) {
	for _, series := range [][]Series{
		nil,
		{{Name: "not finite", X: []float64{1}, Y: []float64{math.NaN()}}},
		{{Name: "uneven", X: []float64{1, 2}, Y: []float64{1}}},
	} {
		if err := Lines(io.Discard, "empty", "x", "y", series); err == nil {
			t.Errorf("%v: no error", series)
		}
	}
}
