package op

import (
	"fmt"

	"qlora/ref/num"
)

// At says where an operation stands: the decoder block, num.NoLayer outside the blocks, and a name within it such as
// "self_attn.q_proj". It appears in traces and errors and selects the random numbers of dropout.
type At struct {
	Layer uint16
	Name  string
}

func (a At) String() string {
	if a.Layer == num.NoLayer {
		return a.Name
	}
	return fmt.Sprintf("layers.%d.%s", a.Layer, a.Name)
}
