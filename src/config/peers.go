package config

import (
	"fmt"
	"maps"
	"slices"
)

// ClusterPeer is another cluster of analyzers to exchange topology with: an entry of analyzer.peers.
type ClusterPeer struct {
	Name               string
	Endpoints          []Address
	Subscribe          string // Gremlin expression of what is taken from there, "*" for all; "" for nothing
	Publish            string // "k=v,…" of the metadata of the nodes that are sent there, "*" for all; "" for none
	Username, Password string
}

// ClusterPeers returns the entries of analyzer.peers by name; the error names the one that is wrong.
func (a Analyzer) ClusterPeers() ([]ClusterPeer, error) {
	var list []ClusterPeer
	for _, name := range slices.Sorted(maps.Keys(a.Peers)) {
		p := ClusterPeer{Name: name}
		fields, ok := a.Peers[name].(map[string]any)
		if !ok {
			return nil, fmt.Errorf("analyzer.peers.%s: want a map with endpoints, subscribe_filter, publish_filter, username and password", name)
		}
		for _, key := range slices.Sorted(maps.Keys(fields)) {
			text, isText := fields[key].(string)
			target := map[string]*string{"subscribe_filter": &p.Subscribe, "publish_filter": &p.Publish, "username": &p.Username, "password": &p.Password}[key]
			switch {
			case target != nil && isText:
				*target = text
			case target != nil:
				return nil, fmt.Errorf("analyzer.peers.%s.%s: want text", name, key)
			case key != "endpoints":
				return nil, fmt.Errorf("analyzer.peers.%s: unknown key %s", name, key)
			default:
				endpoints, ok := fields[key].([]any)
				if !ok {
					return nil, fmt.Errorf("analyzer.peers.%s.endpoints: want a list of host:port", name)
				}
				for _, e := range endpoints {
					address, err := ParseAddress(fmt.Sprint(e))
					if err != nil {
						return nil, fmt.Errorf("analyzer.peers.%s.endpoints: %w", name, err)
					}
					p.Endpoints = append(p.Endpoints, address)
				}
			}
		}
		switch {
		case len(p.Endpoints) == 0:
			return nil, fmt.Errorf("analyzer.peers.%s has no endpoints", name)
		case p.Subscribe == "" && p.Publish == "":
			return nil, fmt.Errorf("analyzer.peers.%s: neither subscribe_filter nor publish_filter: nothing would be exchanged", name)
		}
		list = append(list, p)
	}
	return list, nil
}
