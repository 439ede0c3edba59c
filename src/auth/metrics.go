package auth

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// failureCounter counts requests with wrong credentials, by backend; backends share the metric.
func failureCounter(r prometheus.Registerer, backend string) (prometheus.Counter, error) {
	failures := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "skydive_auth_failures_total",
		Help: "Requests with wrong credentials, by authentication backend.",
	}, []string{"backend"})
	if r != nil {
		if err := r.Register(failures); err != nil {
			var already prometheus.AlreadyRegisteredError
			if !errors.As(err, &already) {
				return nil, err
			}
			failures = already.ExistingCollector.(*prometheus.CounterVec)
		}
	}
	return failures.WithLabelValues(backend), nil
}
