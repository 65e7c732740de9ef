package peft

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// UnmarshalJSON reads a string, a list of strings or null.
func (n *Names) UnmarshalJSON(b []byte) error {
	*n = Names{}
	if json.Unmarshal(b, &n.Regexp) == nil {
		return nil
	}
	if err := json.Unmarshal(b, &n.List); err != nil {
		return fmt.Errorf("want a list of names, or one regular expression: %w", err)
	}
	return nil
}

// MarshalJSON writes what UnmarshalJSON reads.
func (n Names) MarshalJSON() ([]byte, error) {
	if n.Regexp != "" {
		return json.Marshal(n.Regexp)
	}
	return json.Marshal(n.List)
}

// UnmarshalJSON reads one number, a list of numbers or null.
func (l *Layers) UnmarshalJSON(b []byte) error {
	var one *int
	if json.Unmarshal(b, &one) == nil {
		*l = nil
		if one != nil {
			*l = Layers{*one}
		}
		return nil
	}
	return json.Unmarshal(b, (*[]int)(l))
}

// UnmarshalJSON reads an object of numbers, or null, and keeps its order.
func (p *Pattern) UnmarshalJSON(b []byte) error {
	var values map[string]float64
	if err := json.Unmarshal(b, &values); err != nil {
		return fmt.Errorf("want numbers by modules' names: %w", err)
	}
	*p = nil
	d := json.NewDecoder(bytes.NewReader(b))
	for {
		token, err := d.Token()
		if err != nil {
			break // the end: b is right
		}
		if key, ok := token.(string); ok {
			*p = append(*p, Entry{key, values[key]})
		}
	}
	return nil
}

// MarshalJSON writes what UnmarshalJSON reads.
func (p Pattern) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, e := range p {
		key, err := json.Marshal(e.Modules)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(e.Value)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(key)
		b.WriteByte(':')
		b.Write(value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}
