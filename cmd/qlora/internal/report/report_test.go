package report

import (
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"regexp"
	"strings"
	"testing"
	"time"

	"qlora/cmd/qlora/internal/plot"
	"qlora/cmd/qlora/internal/runs"
)

func write(t *testing.T, r *runs.Run) string {
	t.Helper()
	var b strings.Builder
	if err := Write(&b, r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// example is a run of n steps that was measured every tenth.
func example(t *testing.T, n int) *runs.Run {
	r := &runs.Run{
		Dir:    runs.Dir(t.TempDir()),
		Config: []runs.Setting{{Name: "model", Value: "demo"}, {Name: "prompt", Value: "<b>"}},
		Info: runs.Info{Steps: n, Device: "cpu", Finished: time.Unix(0, 0), Peak: 3 << 20, Trained: 1234567,
			Memory: []runs.Part{{Name: "weights", Peak: 2 << 20}, {Name: "lora", Peak: 1 << 20}}},
		Checkpoints: []int{10, 20},
	}
	for step := range n + 1 {
		loss, rate := float32(5-4*float64(step)/float64(n)), 0.001
		if step > 0 {
			r.Metrics = append(r.Metrics, runs.Metric{Step: step, Loss: &loss, LR: &rate, GradNorm: &loss})
			r.Speed = append(r.Speed, runs.Speed{Step: step, Seconds: 0.5, Tokens: 100})
		}
		if step%10 == 0 {
			r.Metrics = append(r.Metrics, runs.Metric{Step: step, HeldOut: &loss})
			r.Samples = append(r.Samples, runs.Sample{Step: step, Prompt: "O", Text: fmt.Sprintf("O <script>%d</script>", step)})
		}
	}
	return r
}

func TestPage(t *testing.T) {
	page := write(t, example(t, 100))
	for _, want := range []string{
		"done, step 100 of 100", "1.0000</div><div class=\"more\">5.0000 before", "after step 100", "1\u202f234\u202f567", "200</div>",
		"&lt;b&gt;", "after step 100</h3><pre><b>O</b> &lt;script&gt;100&lt;/script&gt;", "before</h3><pre><b>O</b> &lt;script&gt;0&lt;/script&gt;", "3 more are in",
		"held-out loss 4.2000, the lowest of these", "width: 50.0%", "2.0 MiB", "mean of 5 steps", ">learning rate<", ">speed<",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q", want)
		}
	}
	if n := strings.Count(page, "<h3>"); n != mostSamples {
		t.Errorf("%d samples", n)
	}
	// It needs nothing from elsewhere, and runs nothing.
	if got := regexp.MustCompile(`(?i)<script|<link|src=|@import|url\(|href=`).FindString(page); got != "" {
		t.Errorf("%q in the page", got)
	}
	for _, svg := range regexp.MustCompile(`(?s)<svg.*?</svg>`).FindAllString(page, -1) {
		for d := xml.NewDecoder(strings.NewReader(svg)); ; {
			if _, err := d.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A run that has only begun has a page, too.
func TestPageOfNothing(t *testing.T) {
	page := write(t, &runs.Run{Dir: "<x>", Config: []runs.Setting{{Name: "model", Value: "demo"}}})
	if !strings.Contains(page, "&lt;x&gt;") || strings.Contains(page, "<svg") || strings.Contains(page, "Samples") {
		t.Error(page)
	}
	nan := float32(math.NaN())
	write(t, &runs.Run{Metrics: []runs.Metric{{Step: 1, Loss: &nan}}})
}

// A plot of many steps shows means, which keep the mean of all.
func TestThin(t *testing.T) {
	var s plot.Series
	for i := range 10 * mostPoints {
		add(&s, i, float64(i%7))
	}
	short := thin(s)
	if len(short.X) != mostPoints || math.Abs(mean(short.Y)-mean(s.Y)) > 1e-9 || short.X[0] != 4.5 {
		t.Error(len(short.X), mean(short.Y), short.X[0])
	}
	if whole := thin(short); len(whole.X) != len(short.X) {
		t.Error("a short series was thinned")
	}
}

func TestSmooth(t *testing.T) {
	s := plot.Series{}
	for i := range 60 {
		add(&s, i, float64(i))
	}
	mean, n := smooth(s) // n = 3: 0 1 2 have the mean 1, at 2
	if n != 3 || len(mean.X) != 58 || mean.X[0] != 2 || mean.Y[0] != 1 || mean.Y[57] != 58 {
		t.Error(n, mean)
	}
}
