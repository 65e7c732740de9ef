package kernel

import "testing"

// Twice the rounds are twice the operations.
func TestPeak(t *testing.T) {
	all(t, func(t *testing.T, s *Set) {
		if one, two := s.Peak(1), s.Peak(2); one <= 0 || two != 2*one {
			t.Errorf("%d operations in a round, %d in two", one, two)
		}
	})
}

func BenchmarkPeak(b *testing.B) {
	for _, s := range Sets() {
		b.Run(s.Name, func(b *testing.B) {
			flops := 0
			for b.Loop() {
				flops += s.Peak(1000)
			}
			b.ReportMetric(float64(flops)/float64(b.Elapsed().Nanoseconds()), "GFLOP/s")
		})
	}
}
