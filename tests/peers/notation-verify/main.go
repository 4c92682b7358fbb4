// SPDX-FileCopyrightText: The edgeprov authors
// SPDX-License-Identifier: Apache-2.0

// Command notation-verify verifies an artifact with notation-go, as the notation CLI does: the CLI itself does not
// install as a Go module. It shares no code with edgeprov.
//
// Usage: notation-verify -config DIR (-layout DIR -scope NAME REF | -plain-http HOST/REPO@sha256:...)
//
// DIR is a notation configuration folder: trustpolicy.json and truststore/.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/notaryproject/notation-go"
	"github.com/notaryproject/notation-go/dir"
	notationregistry "github.com/notaryproject/notation-go/registry"
	"github.com/notaryproject/notation-go/verifier"
	"oras.land/oras-go/v2/registry/remote"
)

func main() {
	config := flag.String("config", "", "notation configuration folder")
	layout := flag.String("layout", "", "OCI layout folder to read instead of a registry")
	scope := flag.String("scope", "", "registry scope of an OCI layout (as in --scope of notation)")
	plainHTTP := flag.Bool("plain-http", false, "talk to the registry without TLS")
	flag.Parse()
	if err := run(*config, *layout, *scope, *plainHTTP, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "refused:", err)
		os.Exit(1)
	}
}

func run(config, layout, scope string, plainHTTP bool, reference string) error {
	ctx := context.Background()
	dir.UserConfigDir = config
	judge, err := verifier.NewFromConfig()
	if err != nil {
		return err
	}
	var repository notationregistry.Repository
	name := reference
	if layout != "" {
		repository, err = notationregistry.NewOCIRepository(layout, notationregistry.RepositoryOptions{})
		name = scope + "@" + reference
	} else {
		var remoteRepository *remote.Repository
		remoteRepository, err = remote.NewRepository(strings.SplitN(reference, "@", 2)[0])
		if err == nil {
			remoteRepository.PlainHTTP = plainHTTP
			repository = notationregistry.NewRepository(remoteRepository)
		}
	}
	if err != nil {
		return err
	}
	target, outcomes, err := notation.Verify(ctx, judge, repository, notation.VerifyOptions{
		ArtifactReference:    name,
		MaxSignatureAttempts: 50,
	})
	if err != nil {
		return err
	}
	if len(outcomes) == 0 || outcomes[0].VerificationLevel.Name != "strict" {
		return fmt.Errorf("no strict verification of %s took place", reference)
	}
	chain := outcomes[0].EnvelopeContent.SignerInfo.CertificateChain
	return json.NewEncoder(os.Stdout).Encode(map[string]string{
		"digest":  target.Digest.String(),
		"subject": chain[0].Subject.String(),
		"level":   outcomes[0].VerificationLevel.Name,
	})
}
