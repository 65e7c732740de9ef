package num

// hardInputs are the float32 whose results are nearest to a midpoint.
var hardInputs = []float32{}
