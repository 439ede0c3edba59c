package tlsconf

import "github.com/prometheus/client_golang/prometheus"

func notAfterMetric() *prometheus.Desc {
	return prometheus.NewDesc("skydive_tls_certificate_not_after_seconds", "When the certificate in use expires, in Unix time; authorities by their first one.", []string{"use"}, nil)
}

func refusedMetric() *prometheus.Desc {
	return prometheus.NewDesc("skydive_tls_refused_files_total", "Changed certificates that were not taken into use.", nil, nil)
}

// Describe makes Certificates a prometheus.Collector.
func (c *Certificates) Describe(to chan<- *prometheus.Desc) {
	to <- notAfterMetric()
	to <- refusedMetric()
}

// Collect gives the metrics as they are now; none without TLS.
func (c *Certificates) Collect(to chan<- prometheus.Metric) {
	s := c.inUse.Load()
	if s == nil {
		return
	}
	first := map[string]int64{}
	for _, cert := range s.list {
		if at, known := first[cert.Use]; !known || cert.NotAfter.Unix() < at {
			first[cert.Use] = cert.NotAfter.Unix()
		}
	}
	for use, at := range first {
		to <- prometheus.MustNewConstMetric(notAfterMetric(), prometheus.GaugeValue, float64(at), use)
	}
	c.mu.Lock()
	refused := c.refused
	c.mu.Unlock()
	to <- prometheus.MustNewConstMetric(refusedMetric(), prometheus.CounterValue, refused)
}
