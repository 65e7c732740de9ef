package plot

import (
	"encoding/xml"
	"io"
	"math"
	"strings"
	"testing"
)

// The picture is well-formed XML with a path for the line, a circle for the marked point, and escaped names.
func TestLines(t *testing.T) {
	var b strings.Builder
	err := Lines(&b, "loss < 5 & falling", "step", "loss", []Series{
		{Name: "train", X: []float64{1, 2, 3, 4}, Y: []float64{5, 4, math.NaN(), 3}},
		{Name: "held-out", X: []float64{4}, Y: []float64{3.5}, Mark: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	d := xml.NewDecoder(strings.NewReader(b.String()))
	for {
		if _, err := d.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"loss &lt; 5 &amp; falling", `stroke-width="2" stroke-linejoin`, "<circle"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	if strings.Contains(b.String(), "NaN") {
		t.Error("a NaN was drawn")
	}
}

func TestTicks(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   string
	}{
		{[]float64{1, 60}, "0 10 20 30 40 50 60"},
		{[]float64{3.26, 4.89}, "3.0 3.5 4.0 4.5 5.0"},
		{[]float64{0, 0.0031}, "0.000 0.001 0.002 0.003 0.004"},
		{[]float64{7, 7}, "6.0 6.5 7.0 7.5 8.0"},
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
	if err := Lines(io.Discard, "empty", "x", "y", nil); err == nil {
		t.Error("no error")
	}
}
