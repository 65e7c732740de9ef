// Package cpu is the CPU device: the reference's bits at the speed of all cores, with AVX-512, with AVX2 and FMA, or in plain Go
// (package kernel, which also says how one is chosen).
//
// That speed and bits go together is the doing of three rules of the specification. The elements of a result are independent, so they
// may be dealt among cores and among the lanes of a register. Each is a sum in ascending order, which a block of columns keeps when
// k is its outer loop. And the product of two 16-bit numbers is exact in float32, so a fused multiply-add rounds as a product and a sum
// do; where packing finds exponents for which that is not so, a kernel that rounds twice takes the block (product.go).
//
// Options.Fast gives such bits up, where a processor has an instruction that is faster still: fast.go.
//
// Read device.go and memory.go for how a call runs and where tensors lie, product.go for the matrix product that most of the
// time goes into, then an operation a file, by its name.
package cpu

import (
	"cmp"
	"fmt"
	"runtime"
	"sync"

	"qlora/accel/cpu/kernel"
	"qlora/ref/num"
	"qlora/ref/op"
	"qlora/ref/optim"
	"qlora/ref/quant"
)

// Device computes each operation when it is called, on several threads.
type Device struct {
	kernel  *kernel.Set
	threads int
	arena   op.Arena
	heaps   [op.Block + 1]heap
	marks   map[op.Mark]top
	workers []*scratch // one a thread
	shared  scratch    // what the threads of an operation share
	left    panels     // what the last product packed of its left operand
	fast    bool
	pages   *op.Pages
	flight  *flight // the page that is being brought in ahead of its use, if any
	err     error

	accountOnly bool

	growing  sync.Mutex // of workspace
	overflow error      // growing went over the cap
}

var _ op.Device = (*Device)(nil)

// Options say how a device computes.
type Options struct {
	Cap     int64       // bytes that it may hold; 0 is no limit
	Threads int         // 0 is runtime.GOMAXPROCS
	Kernel  *kernel.Set // nil is what kernel.Choose gives
	Fast    bool        // products of bfloat16 within bounds, by AVX512-BF16 (fast.go)

	// AccountOnly makes a device whose arena counts what the other would hold, for the same calls, and that holds no values and computes
	// nothing: what is read is zeros.
	AccountOnly bool
}

// New is a device.
func New(o Options) (*Device, error) {
	d := &Device{kernel: o.Kernel, arena: op.Arena{Cap: o.Cap}, marks: map[op.Mark]top{}, accountOnly: o.AccountOnly}
	d.shared.d = d
	d.pages = op.NewPages(&d.arena)
	d.pages.AccountOnly = o.AccountOnly
	if d.kernel == nil {
		k, err := kernel.Choose()
		if err != nil {
			return nil, err
		}
		d.kernel = k
	}
	if o.Fast {
		if err := checkFast(d.kernel); err != nil {
			return nil, err
		}
		d.fast = true
	}
	if o.Threads == 0 {
		o.Threads = runtime.GOMAXPROCS(0)
	}
	d.SetThreads(o.Threads)
	return d, nil
}

// SetThreads changes the number of threads, and gives the one before. It has no influence on any bit.
func (d *Device) SetThreads(n int) (before int) {
	before, d.threads = d.threads, n
	for len(d.workers) < n {
		d.workers = append(d.workers, &scratch{d: d})
	}
	return before
}

func (d *Device) Name() string                                 { return "cpu" }
func (d *Device) Supports(operation string, t num.DType) error { return nil }
func (d *Device) Arena() *op.Arena                             { return &d.arena }
func (d *Device) Record(key string, f func())                  { f() }

func (d *Device) Sync() error {
	d.land()
	return d.err
}

// Accounts says whether the device only accounts for memory: see op.Fill.
func (d *Device) Accounts() bool { return d.accountOnly }

// Describe says what computes: the kernels and the threads.
func (d *Device) Describe() string {
	products := ""
	if d.fast {
		products = ", fast products"
	}
	return fmt.Sprintf("%s%s, %d threads", d.kernel.Name, products, d.threads)
}

func (d *Device) Write(t *op.Tensor, x []float32) {
	if !d.accountOnly {
		op.CheckWrite(t, x)
	}
	d.moved(true, func() {
		to := of(t)
		d.elements(len(x), func(_ *scratch, i, j int) { to.part(i, j).put(d.kernel, x[i:j]) })
	}, t.Handle)
}

func (d *Device) WriteInts(t *op.Ints, x []int32) {
	op.CheckWriteInts(t, x)
	if d.err == nil {
		copy(ints(t), x)
	}
}

func (d *Device) Zero(t *op.Tensor) {
	d.moved(true, func() { of(t).zero() }, t.Handle)
}

func (d *Device) Read(t *op.Tensor) ([]float32, error) {
	if d.err != nil {
		return nil, d.err
	}
	x := make([]float32, t.Len())
	d.moved(false, func() { of(t).get(d.kernel, x) }, t.Handle)
	return x, d.err
}

func (d *Device) ReadInts(t *op.Ints) ([]int32, error) {
	if d.err != nil {
		return nil, d.err
	}
	return append([]int32(nil), ints(t)...), nil
}

func (d *Device) NewQuantized(name string, w *quant.Tensor) *op.Quantized {
	q := &op.Quantized{Name: name, Out: w.Shape[0], In: w.Shape[1]}
	if d.account(op.Run, name, w.Bytes()) {
		q.Handle = w
	}
	return q
}

func (d *Device) NewState8(life op.Lifetime, name string, n int) *op.State8 {
	s := &op.State8{Name: name, Len: n}
	switch {
	case life == op.Paged:
		s.Handle = d.page(name, n, true)
	case d.account(life, name, int(op.State8Bytes(n))) && !d.accountOnly:
		s.Handle = optim.NewState8(n)
	}
	return s
}

func (d *Device) WriteState8(s *op.State8, x *optim.State8) {
	if len(x.M) != s.Len {
		panic(fmt.Sprintf("cpu: 8-bit state of %d values written to %s, which has %d", len(x.M), s.Name, s.Len))
	}
	d.moved(true, func() { copyState8(state8(s), x) }, s.Handle)
}

func (d *Device) ReadState8(s *op.State8) (*optim.State8, error) {
	if d.err != nil {
		return nil, d.err
	}
	x := optim.NewState8(s.Len)
	d.moved(false, func() { copyState8(x, state8(s)) }, s.Handle)
	return x, d.err
}

func copyState8(to, from *optim.State8) {
	copy(to.M, from.M)
	copy(to.V, from.V)
	copy(to.AbsmaxM, from.AbsmaxM)
	copy(to.AbsmaxV, from.AbsmaxV)
}

// do runs an operation that goes by pieces, unless an earlier one failed, and keeps its error with its place.
func (d *Device) do(at op.At, f func() error) {
	d.within(at, func() workspace { return workspace{} }, f)
}

// within is do for an operation that takes more workspace than pieces, which need says once it is to run.
func (d *Device) within(at op.At, need func() workspace, f func() error) {
	if d.err != nil {
		return
	}
	err := d.reserve(need().and(ofRows(piece)))
	if err == nil && !d.accountOnly {
		err = cmp.Or(f(), d.overflow)
	}
	if err != nil {
		d.err = fmt.Errorf("%v: %w", at, err)
	}
}
