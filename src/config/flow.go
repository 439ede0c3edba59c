package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Applications returns flow.application_ports and flow.application_timeout, application names in upper case. The error names the first entry
// that makes no sense.
func (f Flow) Applications() (tcp, udp map[uint16]string, timeouts map[string]time.Duration, err error) {
	ports := func(key string, m map[string]any) map[uint16]string {
		out := make(map[uint16]string, len(m))
		for port, name := range m {
			n, wrong := strconv.ParseUint(port, 10, 16)
			if (wrong != nil || n == 0 || name == "") && err == nil {
				err = fmt.Errorf("%s: want a map of ports to names, not %s: %v", key, port, name)
			}
			out[uint16(n)] = strings.ToUpper(fmt.Sprint(name))
		}
		return out
	}
	tcp = ports("flow.application_ports.tcp", f.ApplicationPorts.TCP)
	udp = ports("flow.application_ports.udp", f.ApplicationPorts.UDP)
	timeouts = make(map[string]time.Duration, len(f.ApplicationTimeout))
	for name, v := range f.ApplicationTimeout {
		seconds, wrong := strconv.ParseUint(fmt.Sprint(v), 10, 31)
		if (wrong != nil || seconds == 0) && err == nil {
			err = fmt.Errorf("flow.application_timeout: want a map of applications to seconds, not %s: %v", name, v)
		}
		timeouts[strings.ToUpper(name)] = time.Duration(seconds) * time.Second
	}
	return tcp, udp, timeouts, err
}
