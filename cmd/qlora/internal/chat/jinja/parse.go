package jinja

import (
	"slices"
	"strconv"
)

// parser makes functions of tokens, with Jinja2's grammar and precedences.
type parser struct {
	tokens     []token
	at         int
	depth      int
	generation bool
	captured   int // macros and {% set %} blocks around this place
}

func (p *parser) peek() token { return p.tokens[p.at] }

func (p *parser) next() token {
	t := p.tokens[p.at]
	if t.kind != endOfTemplate {
		p.at++
	}
	return t
}

func (p *parser) is(k kind, text string) bool { return p.peek().kind == k && p.peek().text == text }

func (p *parser) op(text string) bool { return p.is(operatorToken, text) }

func (p *parser) accept(k kind, text string) bool {
	if p.is(k, text) {
		p.at++
		return true
	}
	return false
}

func (p *parser) acceptOp(text string) bool { return p.accept(operatorToken, text) }

func (p *parser) expect(k kind, what string) token {
	t := p.next()
	if t.kind != k || (k == operatorToken || k == endTag || k == endOutput) && t.text != what {
		fail(t.line, "want %s, found %s", what, t)
	}
	return t
}

func (t token) String() string {
	switch t.kind {
	case endOfTemplate:
		return "the template's end"
	case stringToken:
		return strconv.Quote(t.text)
	}
	return t.text
}

// deeper counts what is in each other; call what it returns at the end.
func (p *parser) deeper() func() {
	if p.depth++; p.depth > mostDepth {
		fail(p.peek().line, "more than %d expressions or blocks are in each other", mostDepth)
	}
	return func() { p.depth-- }
}

// body reads up to a tag of one of these names, which it passes over, or up to the end if there is none to wait for.
func (p *parser) body(of string, ends ...string) (body []statement, end string) {
	defer p.deeper()()
	begin := p.peek().line
	for {
		switch t := p.next(); t.kind {
		case textToken:
			body = append(body, func(r *run) flow {
				r.write(t.line, t.text)
				return onward
			})
		case beginOutput:
			x := p.list()
			p.expect(endOutput, "}}")
			body = append(body, func(r *run) flow {
				r.write(t.line, str(x(r)))
				return onward
			})
		case beginTag:
			name := p.expect(nameToken, "a tag's name")
			if slices.Contains(ends, name.text) {
				return body, name.text
			}
			body = append(body, p.tag(name))
		default:
			if len(ends) > 0 {
				fail(begin, "{%% %s %%} has no {%% %s %%}", of, ends[len(ends)-1])
			}
			return body, ""
		}
	}
}

func (p *parser) endTag() { p.expect(endTag, "%}") }

func (p *parser) tag(name token) statement {
	switch name.text {
	case "if":
		return p.ifTag()
	case "for":
		return p.forTag(name.line)
	case "set":
		return p.setTag(name.line)
	case "macro":
		return p.macroTag(name.line)
	case "generation":
		return p.generationTag(name.line)
	case "break", "continue":
		p.endTag()
		f := breaking
		if name.text == "continue" {
			f = continuing
		}
		return func(*run) flow { return f }
	}
	fail(name.line, "{%% %s %%} is not what a chat template may have here", name.text)
	return nil
}

func (p *parser) ifTag() statement {
	condition := p.list()
	p.endTag()
	then, end := p.body("if", "elif", "else", "endif")
	var otherwise []statement
	switch end {
	case "elif":
		defer p.deeper()()
		otherwise = []statement{p.ifTag()}
	case "else":
		p.endTag()
		otherwise, _ = p.body("else", "endif")
		p.endTag()
	default:
		p.endTag()
	}
	return func(r *run) flow {
		if truth(condition(r)) {
			return r.execute(then)
		}
		return r.execute(otherwise)
	}
}

// targets reads names that take values, and gives what sets them in a scope.
func (p *parser) targets() func(s *scope, line int, v any) {
	names := []string{p.expect(nameToken, "a name").text}
	for p.acceptOp(",") {
		names = append(names, p.expect(nameToken, "a name").text)
	}
	return func(s *scope, line int, v any) {
		if len(names) == 1 {
			s.names[names[0]] = v
			return
		}
		parts := items(line, v)
		if len(parts) != len(names) {
			fail(line, "%d values for %d names", len(parts), len(names))
		}
		for i, name := range names {
			s.names[name] = parts[i]
		}
	}
}

func (p *parser) forTag(line int) statement {
	set := p.targets()
	if t := p.next(); t.kind != nameToken || t.text != "in" {
		fail(t.line, "want in, found %s", t)
	}
	over := p.or()
	if p.acceptOp(",") {
		fail(line, "want one list after in")
	}
	var only expression
	if p.accept(nameToken, "if") {
		only = p.expression()
	}
	p.endTag()
	body, end := p.body("for", "else", "endfor")
	p.endTag()
	var otherwise []statement
	if end == "else" {
		otherwise, _ = p.body("else", "endfor")
		p.endTag()
	}
	return func(r *run) flow {
		all := items(line, over(r))
		r.work(line, all)
		if only != nil {
			all = slices.DeleteFunc(slices.Clone(all), func(v any) bool {
				s := r.scope
				r.scope = r.inner()
				set(r.scope, line, v)
				keep := truth(only(r))
				r.scope = s
				return !keep
			})
		}
		if len(all) == 0 {
			return r.within(r.inner(), otherwise)
		}
		return r.loop(line, all, body, set)
	}
}

func (r *run) loop(line int, all []any, body []statement, set func(*scope, int, any)) flow {
	l := &loop{items: all}
	for i, v := range all {
		r.steps += 3 // for the scope
		r.work(line)
		l.index = i
		s := r.inner()
		s.names["loop"] = l
		set(s, line, v)
		if r.within(s, body) == breaking {
			break
		}
	}
	return onward
}

func (p *parser) setTag(line int) statement {
	if p.at+1 < len(p.tokens) && p.tokens[p.at+1].kind == operatorToken && p.tokens[p.at+1].text == "." {
		return p.setAttribute(line)
	}
	set := p.targets()
	if p.acceptOp("=") {
		x := p.list()
		p.endTag()
		return func(r *run) flow {
			set(r.scope, line, x(r))
			return onward
		}
	}
	p.endTag()
	p.captured++
	body, _ := p.body("set", "endset")
	p.captured--
	p.endTag()
	return func(r *run) flow {
		set(r.scope, line, r.capture(r.inner(), body))
		return onward
	}
}

func (p *parser) setAttribute(line int) statement {
	object, _ := p.next().text, p.next()
	attribute := p.expect(nameToken, "a name").text
	p.expect(operatorToken, "=")
	x := p.list()
	p.endTag()
	return func(r *run) flow {
		n, ok := r.scope.get(object).(*namespace)
		if !ok {
			fail(line, "%s is no namespace: its attributes cannot be set", object)
		}
		n.names[attribute] = x(r)
		return onward
	}
}

// parameter is one of a macro's.
type parameter struct {
	name    string
	initial expression // nil for none
}

func (p *parser) macroTag(line int) statement {
	name := p.expect(nameToken, "the macro's name").text
	var parameters []parameter
	p.expect(operatorToken, "(")
	for !p.acceptOp(")") {
		q := parameter{name: p.expect(nameToken, "a parameter's name").text}
		if p.acceptOp("=") {
			q.initial = p.expression()
		}
		parameters = append(parameters, q)
		if !p.op(")") {
			p.expect(operatorToken, ",")
		}
	}
	p.endTag()
	p.captured++
	body, _ := p.body("macro", "endmacro")
	p.captured--
	p.endTag()
	return func(r *run) flow {
		outer := r.scope
		outer.names[name] = Function(func(c *Call) any {
			r.depth++
			if r.depth > mostDepth {
				fail(line, "macro %s calls itself more than %d times", name, mostDepth)
			}
			was := r.scope
			r.scope = &scope{map[string]any{}, outer}
			for i, q := range parameters {
				c.set(r, i, q)
			}
			text := r.capture(r.scope, body)
			r.scope = was
			r.depth--
			return text
		})
		return onward
	}
}

// set gives a macro's parameter its value.
func (c *Call) set(r *run, i int, q parameter) {
	v := any(undefined{"parameter " + q.name + " was not given"})
	switch named, ok := c.Named[q.name]; {
	case i < len(c.Arguments):
		v = c.Arguments[i]
	case ok:
		v = named
	case q.initial != nil:
		v = q.initial(r)
	}
	r.scope.names[q.name] = v
}

// generationTag marks what the assistant generates. What a macro writes has no place in the text yet when it is written.
func (p *parser) generationTag(line int) statement {
	if p.captured > 0 {
		fail(line, "{%% generation %%} in a macro or in {%% set %%}")
	}
	p.endTag()
	body, _ := p.body("generation", "endgeneration")
	p.endTag()
	p.generation = true
	return func(r *run) flow {
		start := r.out.Len()
		r.within(r.inner(), body)
		r.generated = append(r.generated, Span{start, r.out.Len()})
		return onward
	}
}

// list reads an expression, or several with commas between them, which are a list.
func (p *parser) list() expression {
	first := p.expression()
	if !p.op(",") {
		return first
	}
	all := []expression{first}
	for p.acceptOp(",") {
		if t := p.peek(); t.kind == endTag || t.kind == endOutput || p.op(")") {
			break
		}
		all = append(all, p.expression())
	}
	return listOf(all)
}

func listOf(all []expression) expression {
	return func(r *run) any {
		values := make([]any, len(all))
		for i, x := range all {
			values[i] = x(r)
		}
		return values
	}
}

// expression reads a if b else c.
func (p *parser) expression() expression {
	defer p.deeper()()
	x := p.or()
	for p.accept(nameToken, "if") {
		then, condition := x, p.or()
		otherwise := expression(func(*run) any { return undefined{"the condition was false, and there is no else"} })
		if p.accept(nameToken, "else") {
			otherwise = p.expression()
		}
		x = func(r *run) any {
			if truth(condition(r)) {
				return then(r)
			}
			return otherwise(r)
		}
	}
	return x
}

func (p *parser) or() expression {
	x := p.and()
	for p.accept(nameToken, "or") {
		left, right := x, p.and()
		x = func(r *run) any {
			if v := left(r); truth(v) {
				return v
			}
			return right(r)
		}
	}
	return x
}

func (p *parser) and() expression {
	x := p.not()
	for p.accept(nameToken, "and") {
		left, right := x, p.not()
		x = func(r *run) any {
			if v := left(r); !truth(v) {
				return v
			}
			return right(r)
		}
	}
	return x
}

func (p *parser) not() expression {
	if p.accept(nameToken, "not") {
		defer p.deeper()()
		x := p.not()
		return func(r *run) any { return !truth(x(r)) }
	}
	return p.compare()
}

// comparison is an operator and what is to its right.
type comparison struct {
	op    string
	right expression
}

func (p *parser) compare() expression {
	line, first := p.peek().line, p.sum()
	var rest []comparison
	for {
		switch t := p.peek(); {
		case t.kind == operatorToken && slices.Contains([]string{"==", "!=", "<", "<=", ">", ">="}, t.text):
			p.at++
			rest = append(rest, comparison{t.text, p.sum()})
		case p.accept(nameToken, "in"):
			rest = append(rest, comparison{"in", p.sum()})
		case p.is(nameToken, "not") && p.tokens[p.at+1].kind == nameToken && p.tokens[p.at+1].text == "in":
			p.at += 2
			rest = append(rest, comparison{"not in", p.sum()})
		case rest == nil:
			return first
		default:
			return func(r *run) any {
				left := first(r)
				for _, c := range rest {
					right := c.right(r)
					if !compare(r, line, c.op, left, right) {
						return false
					}
					left = right
				}
				return true
			}
		}
	}
}

// binary reads operators of one precedence, from left to right.
func (p *parser) binary(operand func() expression, operators ...string) expression {
	x := operand()
	for p.peek().kind == operatorToken && slices.Contains(operators, p.peek().text) {
		t, left := p.next(), x
		right := operand()
		x = func(r *run) any {
			v := arithmetic(r, t.line, t.text, left(r), right(r))
			r.work(t.line, v)
			return v
		}
	}
	return x
}

func (p *parser) sum() expression     { return p.binary(p.joined, "+", "-") }
func (p *parser) joined() expression  { return p.binary(p.product, "~") }
func (p *parser) product() expression { return p.binary(p.power, "*", "/", "//", "%") }
func (p *parser) power() expression {
	return p.binary(func() expression { return p.unary(true) }, "**")
}

func (p *parser) unary(filters bool) expression {
	t := p.peek()
	var x expression
	if t.kind == operatorToken && (t.text == "-" || t.text == "+") {
		defer p.deeper()()
		p.at++
		operand := p.unary(false)
		x = func(r *run) any { return arithmetic(r, t.line, t.text, 0, operand(r)) }
	} else {
		x = p.primary()
	}
	x = p.postfix(x)
	if filters {
		x = p.filters(x)
	}
	return x
}

func constant(v any) expression { return func(*run) any { return v } }

func (p *parser) primary() expression {
	t := p.next()
	switch t.kind {
	case nameToken:
		switch t.text {
		case "true", "True":
			return constant(true)
		case "false", "False":
			return constant(false)
		case "none", "None":
			return constant(nil)
		}
		return func(r *run) any {
			r.work(t.line)
			return r.scope.get(t.text)
		}
	case stringToken:
		text := t.text
		for p.peek().kind == stringToken {
			text += p.next().text
		}
		return constant(text)
	case integerToken:
		n, err := strconv.Atoi(t.text)
		if err != nil {
			fail(t.line, "number %s is too large", t.text)
		}
		return constant(n)
	case floatToken:
		x, _ := strconv.ParseFloat(t.text, 64) // ±Inf where it is too large, as in Python
		return constant(x)
	case operatorToken:
		switch t.text {
		case "(":
			return p.parenthesis()
		case "[":
			return listOf(p.until("]"))
		case "{":
			return p.dict()
		}
	}
	fail(t.line, "want a value, found %s", t)
	return nil
}

func (p *parser) parenthesis() expression {
	if p.acceptOp(")") {
		return listOf(nil)
	}
	x := p.list()
	p.expect(operatorToken, ")")
	return x
}

// until reads expressions with commas between them up to a bracket.
func (p *parser) until(bracket string) (all []expression) {
	for !p.acceptOp(bracket) {
		all = append(all, p.expression())
		if !p.op(bracket) {
			p.expect(operatorToken, ",")
		}
	}
	return all
}

func (p *parser) dict() expression {
	line := p.peek().line
	var keys, values []expression
	for !p.acceptOp("}") {
		keys = append(keys, p.expression())
		p.expect(operatorToken, ":")
		values = append(values, p.expression())
		if !p.op("}") {
			p.expect(operatorToken, ",")
		}
	}
	return func(r *run) any {
		d := &Dict{}
		for i, key := range keys {
			d.set(line, key(r), values[i](r))
		}
		return d
	}
}

// postfix reads attributes, items and calls.
func (p *parser) postfix(x expression) expression {
	for {
		t, object := p.peek(), x
		switch {
		case p.acceptOp("."):
			name := p.next()
			switch name.kind {
			case nameToken:
				x = func(r *run) any { return attribute(r, t.line, object(r), name.text) }
			case integerToken:
				n, _ := strconv.Atoi(name.text)
				x = func(r *run) any { return item(r, t.line, object(r), n) }
			default:
				fail(t.line, "want a name after the dot, found %s", name)
			}
		case p.acceptOp("["):
			x = p.subscript(t.line, object)
		case p.acceptOp("("):
			x = p.call(t.line, object)
		default:
			return x
		}
	}
}

func (p *parser) subscript(line int, object expression) expression {
	var bounds [3]expression
	colons := 0
	for !p.acceptOp("]") {
		switch {
		case p.acceptOp(":"):
			if colons++; colons > 2 {
				fail(line, "a slice has at most two colons")
			}
		case bounds[colons] == nil:
			bounds[colons] = p.list()
		default:
			fail(line, "want ], found %s", p.peek())
		}
	}
	if colons == 0 {
		if bounds[0] == nil {
			fail(line, "want an index between [ and ]")
		}
		return func(r *run) any { return item(r, line, object(r), bounds[0](r)) }
	}
	return func(r *run) any {
		var b [3]any
		for i, x := range bounds {
			if x != nil {
				b[i] = x(r)
			}
		}
		return slice(r, line, object(r), b)
	}
}

// arguments are what is between a call's brackets.
type arguments struct {
	values []expression
	names  []string
	named  []expression
}

func (p *parser) arguments() (a arguments) {
	for !p.acceptOp(")") {
		if p.peek().kind == nameToken && p.tokens[p.at+1].kind == operatorToken && p.tokens[p.at+1].text == "=" {
			a.names = append(a.names, p.next().text)
			p.at++
			a.named = append(a.named, p.expression())
		} else {
			a.values = append(a.values, p.expression())
		}
		if !p.op(")") {
			p.expect(operatorToken, ",")
		}
	}
	return a
}

func (a arguments) evaluate(r *run, line int) *Call {
	c := &Call{Line: line, Named: map[string]any{}, run: r}
	for _, x := range a.values {
		c.Arguments = append(c.Arguments, x(r))
	}
	for i, x := range a.named {
		c.Named[a.names[i]] = x(r)
	}
	return c
}

func (p *parser) call(line int, object expression) expression {
	a := p.arguments()
	return func(r *run) any {
		switch f := object(r).(type) {
		case Function:
			v := f(a.evaluate(r, line))
			r.work(line, v)
			return v
		case undefined:
			fail(line, "%s", f.why)
		default:
			fail(line, "%s cannot be called", typeName(f))
		}
		return nil
	}
}

// filters reads filters, tests and calls of what they give.
func (p *parser) filters(x expression) expression {
	for {
		t, object := p.peek(), x
		switch {
		case p.acceptOp("|"):
			x = p.filter(t.line, object)
		case p.accept(nameToken, "is"):
			x = p.test(t.line, object)
		case p.acceptOp("("):
			x = p.call(t.line, object)
		default:
			return x
		}
	}
}

func (p *parser) filter(line int, object expression) expression {
	name := p.expect(nameToken, "a filter's name").text
	f, ok := filters[name]
	if !ok {
		fail(line, "there is no filter %s here", name)
	}
	var a arguments
	if p.acceptOp("(") {
		a = p.arguments()
	}
	return func(r *run) any {
		v := object(r)
		r.work(line, v)
		v = f(v, a.evaluate(r, line))
		r.work(line, v)
		return v
	}
}

func (p *parser) test(line int, object expression) expression {
	negated := p.accept(nameToken, "not")
	name := p.expect(nameToken, "a test's name").text
	f, ok := tests[name]
	if !ok {
		fail(line, "there is no test %s here", name)
	}
	var a arguments
	switch t := p.peek(); {
	case p.acceptOp("("):
		a = p.arguments()
	case t.kind == stringToken || t.kind == integerToken || t.kind == floatToken || p.op("[") || p.op("{"),
		t.kind == nameToken && !slices.Contains([]string{"else", "or", "and", "if", "is", "in", "not"}, t.text):
		a.values = []expression{p.postfix(p.primary())}
	}
	return func(r *run) any {
		v := object(r)
		r.work(line, v)
		return f(v, a.evaluate(r, line)) != negated
	}
}
