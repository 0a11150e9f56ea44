package console

import (
	"context"
	"fmt"

	"github.com/sshgate/sshgate/sshgate"
)

// explained is what the policy says to one kind of use.
type explained struct {
	Use     string `json:"use"`
	Allowed bool   `json:"allowed"`
	Expired bool   `json:"expired,omitempty"`
	Purpose bool   `json:"purpose,omitempty"` // it is asked for first
	Login   string `json:"login,omitempty"`
	// For administrators.
	Application string `json:"application,omitempty"`
	Rule        string `json:"rule,omitempty"`
	Reason      string `json:"reason,omitempty"`
	// Rules are those of the application, in order.
	Rules []explainedRule `json:"rules,omitempty"`
}

// explainedRule is what one rule says.
type explainedRule struct {
	Name    string              `json:"name"`
	Action  sshgate.Action      `json:"action"`
	Outcome sshgate.RuleOutcome `json:"outcome"`
	Because string              `json:"because"`
}

// explain says what the policy lets somebody do at an origin. People read no more
// about an origin that they may not reach than about one that does not exist.
func explain(ctx context.Context, c *call) error {
	target, err := explainTarget(c.args[0])
	if err != nil {
		return usageError{err}
	}
	who, name := c.who, c.text("user")
	switch {
	case name != "":
		id, err := c.findUser(ctx, name)
		if err != nil {
			return err
		}
		who = Caller{Identity: id} // no address: rules about it do not match
	case c.who.Local:
		return usageError{fmt.Errorf("explain: no rule is about you, who are on the gateway itself; name somebody with --user")}
	}
	admin := c.administrator(c.who)
	answers, some := c.explainUses(who, target, admin)
	if !some && !admin {
		return fmt.Errorf("there is no origin %q that you may reach; check the name and the login", target.Origin)
	}
	logins, anyLogin := c.cfg.Policy().Logins(c.request(who, sshgate.Target{Origin: target.Origin}, sshgate.ChannelSession, 0))
	allowed := Origin{Logins: append([]sshgate.Login{}, logins...), AnyLogin: anyLogin}
	if c.flag("json") {
		return c.json(map[string]any{
			"identity": who.Identity.String(), "origin": target.Origin, "login": target.Login,
			"logins": allowed.Logins, "any_login": anyLogin, "uses": answers,
		})
	}
	if err := c.pairs([][2]string{{"who", who.Identity.String()}, {"target", targetText(target.Origin, target.Login)}, {"logins", allowed.loginsText()}}); err != nil {
		return err
	}
	rows := make([][]string, len(answers))
	for i, a := range answers {
		answer := yes(a.Allowed)
		switch {
		case a.Purpose:
			answer = "for a purpose"
		case a.Expired:
			answer = "after a new sign-in"
		}
		rows[i] = []string{a.Use, answer, a.Login, a.Application, a.Rule, a.Reason}
	}
	head := []string{"USE", "ALLOWED", "LOGIN", "APPLICATION", "RULE", "REASON"}
	if !admin {
		head = head[:3]
		for i := range rows {
			rows[i] = rows[i][:3]
		}
	}
	return c.table(head, rows)
}

func explainTarget(s string) (sshgate.Target, error) {
	target, err := sshgate.ParseTarget(s)
	if err == nil && target.Origin == "" { // no separator: the name alone
		var origin sshgate.OriginName
		if origin, err = sshgate.ParseOriginName(s); err == nil {
			target = sshgate.Target{Origin: origin}
		}
	}
	if err != nil {
		return target, fmt.Errorf("explain: %w", err)
	}
	return target, nil
}

// explainUses asks the policy about each kind of use; some tells that one is
// allowed, or would be after a new sign-in.
func (c *call) explainUses(who Caller, target sshgate.Target, reasons bool) (answers []explained, some bool) {
	add := func(use string, req sshgate.Request) {
		e := c.cfg.Policy().Explain(req)
		d := e.Decision
		a := explained{Use: use, Allowed: d.Allowed, Expired: d.Expired, Purpose: d.Purpose, Login: string(d.Login)}
		if reasons {
			a.Application, a.Rule, a.Reason = d.Application, d.Rule, d.Reason
			for _, rule := range e.Rules {
				a.Rules = append(a.Rules, explainedRule{rule.Name, rule.Action, rule.Outcome, rule.Because})
			}
		}
		some = some || d.Allowed || d.Expired || d.Purpose
		answers = append(answers, a)
	}
	add("session", c.request(who, target, sshgate.ChannelSession, 0))
	add("end-to-end", c.request(who, target, sshgate.ChannelEndToEnd, 0))
	for _, status := range c.cfg.Origins() {
		if status.Origin == target.Origin && status.Port != sshgate.SSHPort {
			add(fmt.Sprintf("port %d", status.Port), c.request(who, target, sshgate.ChannelTCP, status.Port))
		}
	}
	return answers, some
}
