// Package authflow turns a person, or a machine's credential, into a
// [sshgate.Identity].
//
// Make an [OIDC] with [NewOIDC]; it does no network, so that a gateway starts
// while its provider is down. [OIDC.StartDevice] begins a device login (RFC
// 8628) and returns what to show; [DeviceLogin.Wait] polls until the provider
// has an answer and checks the ID token. [Web] signs people in by authorization
// code instead, on pages that package web serves. [Pending] lets connections that belong
// together share one login:
//
//	provider, err := authflow.NewOIDC(cfg)
//	logins := authflow.NewPending(func(ctx context.Context, _ authflow.Asker) (authflow.Login, error) {
//		return provider.StartDevice(ctx)
//	}, 1000)
//	defer logins.Close()
//	ticket, err := logins.Join(ctx, keyFingerprint, asker)
//
// [Tokens] issues access tokens and tells whom they and service tokens stand for;
// [Workloads] takes a job's own ID token. The stores of tokens are the caller's.
//
// What goes wrong comes back as a [*Failure], which has a sentence for the user
// and a cause for the log.
//
// The package knows nothing of SSH, keeps no state on disk and decides nothing
// about access: who may go where is the policy's question.
package authflow
