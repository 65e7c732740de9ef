package num

// hardInputs are those whose results lie nearest to a midpoint of two float32, as TestExhaustive -exhaustive found them, one
// of each family: e^x once, ln x 16 times, sigmoid near 0 where it is 1/2 + x/4 − …, 1/√x at one significand in every
// second binade.
var hardInputs = []float32{
	-0x1.d2259ap+03,
	0x1.917748p-100, 0x1.390ffp-93, 0x1.22d57p-65, 0x1.98496ep-39, 0x1.b97c7p-14, 0x1.f0ddep-08, 0x1.827a74p-07, 0x1.2f1fd6p+03,
	0x1.cb534cp+13, 0x1.bacb4ap+25, 0x1.c09d7cp+27, 0x1.d1309cp+62, 0x1.b121a6p+76, 0x1.5190cp+78, 0x1.6351d8p+95, 0x1.cfd86ep+116,
	0x1p-23, 0x1.ep-20, 0x1.fcp-17, 0x1.66p-16, 0x1.437902p-05, -0x1p-24, -0x1.fep-17, -0x1.1bp-16, -0x1.250c02p-10, -0x1.2082ep-03,
	0x1.7431c6p-125, 0x1.7431c6p-01, 0x1.7431c6p+01, 0x1.7431c6p+127,
}
