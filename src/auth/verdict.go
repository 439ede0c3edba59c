package auth

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// What was found out about credentials is remembered, or every request would cost a slow check. Those that were right once are no
// guess: when they are looked at again – the file of users has changed, or a token may have been revoked –, that is not limited. Those that were
// wrong are so for a moment: a program that goes on asking with them uses up no attempts of others behind the same address.
const (
	rightFor = 5 * time.Minute
	wrongFor = 10 * time.Second
	// awayFor is how long credentials that were right are not looked at again when the backend did not answer.
	awayFor    = 30 * time.Second
	maxRight   = 4096
	maxWrong   = 4096
	maxWaiting = 512
	// checkTimeout includes the wait for others' checks.
	checkTimeout = 15 * time.Second
)

// fingerprint identifies credentials without telling them.
type fingerprint [sha256.Size]byte

func (a *Authenticator) fingerprint(kind string, words ...string) (f fingerprint) {
	mac := hmac.New(sha256.New, a.key)
	io.WriteString(mac, kind)
	for _, word := range words {
		fmt.Fprintf(mac, " %d ", len(word))
		io.WriteString(mac, word)
	}
	mac.Sum(f[:0])
	return f
}

// verdict is what is known of credentials until it must be asked for again.
type verdict struct {
	token   Token     // its ID is empty: it is in the request
	err     error     // nil: right
	again   time.Time // zero: never, for this version
	version uint64
}

// check is one that runs now; those who come with the same credentials wait for it.
type check struct {
	done  chan struct{}
	token Token
	err   error
}

// passwords knows users.
type passwords interface {
	// check takes as long for a user that does not exist.
	check(user, password string) bool
	// version changes whenever the users may have.
	version() uint64
}

func (a *Authenticator) version() uint64 {
	if a.passwords == nil {
		return 0
	}
	return a.passwords.version()
}

// checkPassword checks a user and a password. Only a login asks for the token.
func (a *Authenticator) checkPassword(r *http.Request, user, password string, login bool) (Token, error) {
	id, ask := a.fingerprint("password", user, password), func(ctx context.Context) (Token, error) {
		return a.tokens.Login(ctx, user, password)
	}
	if a.passwords != nil {
		ask = func(context.Context) (Token, error) {
			if !a.passwords.check(user, password) {
				return Token{}, ErrWrong
			}
			return Token{User: user}, nil
		}
	}
	fresh := login && a.tokens != nil
	token, err := a.verify(r, id, strings.ToLower(user), fresh, ask)
	switch {
	case err != nil || !login:
	case fresh:
		a.mu.Lock()
		a.remember(a.fingerprint("token", token.ID), Token{User: token.User, Until: token.Until}, 0)
		a.mu.Unlock()
	default:
		token.ID = encode(user, password)
	}
	return token, err
}

func (a *Authenticator) checkToken(r *http.Request, token string) (Token, error) {
	return a.verify(r, a.fingerprint("token", token), "", false, func(ctx context.Context) (Token, error) { return a.tokens.Verify(ctx, token) })
}

// verify returns what is known of credentials, or else asks. name is that of the user, if it is known; fresh asks in any case.
func (a *Authenticator) verify(r *http.Request, id fingerprint, name string, fresh bool, ask func(context.Context) (Token, error)) (Token, error) {
	version := a.version()
	a.mu.Lock()
	now := a.clock()
	known, wasRight := a.right[id]
	good := wasRight && !fresh && known.version == version
	if good && (known.again.IsZero() || now.Before(known.again)) {
		a.mu.Unlock()
		return known.token, nil
	}
	if wrong, ok := a.wrong[id]; ok && wrong.version == version && now.Before(wrong.again) {
		a.mu.Unlock()
		a.failures.Inc()
		return Token{}, wrong.err
	}
	full := a.waiting >= maxWaiting
	if good && (full || now.Before(a.retry)) && now.Before(known.token.Until) {
		a.mu.Unlock()
		return known.token, nil
	}
	if other := a.pending[id]; other != nil && !fresh {
		a.mu.Unlock()
		select {
		case <-other.done:
			return other.token, other.err
		case <-r.Context().Done():
			return Token{}, ErrBusy
		}
	}
	if full {
		a.mu.Unlock()
		return Token{}, ErrBusy
	}
	mine := &check{done: make(chan struct{}), err: ErrWrong}
	a.waiting++
	if !fresh {
		a.pending[id] = mine
	}
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.waiting--
		if a.pending[id] == mine {
			delete(a.pending, id)
		}
		close(mine.done)
	}()

	remote, user := remoteOf(r.RemoteAddr), ""
	if name != "" {
		f := a.fingerprint("name", name)
		user = string(f[:])
	}
	if !wasRight && !a.attempt(remote, user) {
		a.failures.Inc()
		mine.err = ErrTooMany
		return mine.token, mine.err
	}
	token, err := a.limited(r.Context(), ask)
	mine.token, mine.err = a.conclude(id, version, fresh, token, err)
	switch {
	case isRefused(mine.err):
		a.failures.Inc()
	case !wasRight && (mine.err == nil || mine.err == ErrBusy):
		a.giveBack(remote, user) // but not what has the backend fail: it may be made to
	}
	return mine.token, mine.err
}

// limited asks when it is its turn.
func (a *Authenticator) limited(ctx context.Context, ask func(context.Context) (Token, error)) (Token, error) {
	// Others may wait for the answer, even when the one who asked first has gone.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkTimeout)
	defer cancel()
	select {
	case a.checking <- struct{}{}:
		defer func() { <-a.checking }()
		return ask(ctx)
	case <-ctx.Done():
		return Token{}, ErrBusy
	}
}

// conclude remembers an answer. When there is none, what was right stays so until it expires – but there is no token for a login then.
func (a *Authenticator) conclude(id fingerprint, version uint64, fresh bool, token Token, err error) (Token, error) {
	var known *Error
	if err != nil && !errors.As(err, &known) {
		known = Unavailable(err.Error())
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.clock()
	switch {
	case err == nil:
		a.answers()
		a.remember(id, Token{User: token.User, Until: token.Until}, version)
		return token, nil
	case isRefused(known):
		a.answers()
		delete(a.right, id)
		if len(a.wrong) >= maxWrong {
			clear(a.wrong)
		}
		a.wrong[id] = verdict{err: known, again: now.Add(wrongFor), version: version}
		return Token{}, known
	}
	if known != ErrBusy {
		if a.away.IsZero() {
			a.away = now
			a.log.Error("nobody new can log in", "section", "auth."+a.name, "error", known)
		}
		a.reason = known
	}
	was, ok := a.right[id]
	if !ok || fresh || !now.Before(was.token.Until) {
		return Token{}, known
	}
	// Only here: whoever has the backend fail must not keep revoked tokens alive by that.
	a.retry = now.Add(awayFor)
	return was.token, nil
}

func isRefused(err error) bool {
	var known *Error
	return errors.As(err, &known) && known.status == http.StatusUnauthorized
}

// answers notes that the backend does. The caller holds the lock.
func (a *Authenticator) answers() {
	if !a.away.IsZero() {
		a.log.Info("logging in works again", "section", "auth."+a.name)
	}
	a.away, a.retry, a.reason = time.Time{}, time.Time{}, nil
}

// remember notes that credentials are right. The caller holds the lock.
func (a *Authenticator) remember(id fingerprint, token Token, version uint64) {
	if _, ok := a.right[id]; !ok && len(a.right) >= maxRight {
		for some := range a.right {
			delete(a.right, some)
			break
		}
	}
	again := a.clock().Add(rightFor)
	switch {
	case token.Until.IsZero():
		again = time.Time{} // their version tells when passwords may have changed
	case token.Until.Before(again):
		again = token.Until
	}
	delete(a.wrong, id)
	a.right[id] = verdict{token: token, again: again, version: version}
}

func (a *Authenticator) forget(id fingerprint) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.right, id)
}

// attempt takes one from what the address and the name have left.
func (a *Authenticator) attempt(remote, name string) bool {
	if !a.remotes.take(remote) {
		return false
	}
	if name != "" && !a.names.take(name) {
		a.remotes.giveBack(remote)
		return false
	}
	return true
}

func (a *Authenticator) giveBack(remote, name string) {
	a.remotes.giveBack(remote)
	if name != "" {
		a.names.giveBack(name)
	}
}
