//go:build tools

// Package kubernetes names the programs that `make cluster-check` builds: an API server, its store, and the controllers.
package kubernetes

import (
	_ "go.etcd.io/etcd/server/v3"
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager"
)
