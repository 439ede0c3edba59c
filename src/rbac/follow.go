package rbac

import "log/slog"

// Follow returns what to call for each event of a watch on keys that begin with key: a nil value means that a key is gone, and synced, which
// comes without a key, that all there is has been told. The policy under key is then always the one in force, unless it is wrong: that
// is logged.
func (e *Enforcer) Follow(key string, log *slog.Logger) func(changed string, value []byte, synced bool) {
	there := false
	return func(changed string, value []byte, synced bool) {
		switch {
		case changed == key:
			there = value != nil
		case !synced || there:
			return
		}
		before := e.Status()
		err := e.SetPolicy(string(value))
		switch now := e.Status(); {
		case err != nil:
			log.Error("the policy in etcd is refused", "key", key, "error", err, "in_force", now.Source)
		case now.Since != before.Since:
			log.Info("policy in force", "sources", now.Source, "rules", now.Rules)
		}
	}
}
