// containerd's own tests of what a snapshotter must do, run on a snapshotter behind a socket, or, without one, on
// containerd's overlay snapshotter, which says which of them this machine can pass.
package conformance

import (
	"context"
	"os"
	"testing"

	api "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/containerd/snapshots/overlay"
	"github.com/containerd/containerd/snapshots/proxy"
	"github.com/containerd/containerd/snapshots/testsuite"
	"google.golang.org/grpc"
)

func TestConformance(t *testing.T) {
	open := overlayfs
	if socket := os.Getenv("SOCI_SOCKET"); socket != "" {
		open = behind("unix://" + socket)
	}
	testsuite.SnapshotterSuite(t, "conformance", open)
}

func overlayfs(_ context.Context, root string) (snapshots.Snapshotter, func() error, error) {
	snapshotter, err := overlay.NewSnapshotter(root)
	if err != nil {
		return nil, nil, err
	}
	return snapshotter, snapshotter.Close, nil
}

func behind(address string) func(context.Context, string) (snapshots.Snapshotter, func() error, error) {
	return func(context.Context, string) (snapshots.Snapshotter, func() error, error) {
		connection, err := grpc.Dial(address, grpc.WithInsecure())
		if err != nil {
			return nil, nil, err
		}
		client := api.NewSnapshotsClient(connection)
		return proxy.NewSnapshotter(client, "soci"), connection.Close, nil
	}
}
