// Signs with Go's libraries, as Debian packages them: golang-jwt and go-jose.
package main

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"

	"github.com/golang-jwt/jwt"
	jose "gopkg.in/square/go-jose.v2"
)

type key struct{ Secret, Pem string }

type line struct {
	Library string `json:"library"`
	Version string `json:"version"`
	Alg     string `json:"alg"`
	Token   string `json:"token,omitempty"`
	Error   string `json:"error,omitempty"`
}

func private(k key) (interface{}, error) {
	if k.Secret != "" {
		return []byte(k.Secret), nil
	}
	block, _ := pem.Decode([]byte(k.Pem))
	return x509.ParsePKCS8PrivateKey(block.Bytes)
}

func golangJwt(alg string, k key, claims map[string]interface{}) (string, error) {
	method := jwt.GetSigningMethod(alg)
	if method == nil {
		return "", fmt.Errorf("unknown")
	}
	made, err := private(k)
	if err != nil {
		return "", err
	}
	return jwt.NewWithClaims(method, jwt.MapClaims(claims)).SignedString(made)
}

func goJose(alg string, k key, claims map[string]interface{}) (string, error) {
	made, err := private(k)
	if err != nil {
		return "", err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(alg), Key: made}, nil)
	if err != nil {
		return "", err
	}
	payload, _ := json.Marshal(claims)
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}

func main() {
	var request struct {
		Claims map[string]interface{}
		Keys   map[string]key
	}
	if err := json.NewDecoder(os.Stdin).Decode(&request); err != nil {
		panic(err)
	}
	libraries := []struct {
		name, version string
		sign          func(string, key, map[string]interface{}) (string, error)
	}{{"golang-jwt", os.Args[1], golangJwt}, {"go-jose", os.Args[2], goJose}}
	out := json.NewEncoder(os.Stdout)
	for _, library := range libraries {
		for alg, k := range request.Keys {
			one := line{Library: library.name, Version: library.version, Alg: alg}
			token, err := library.sign(alg, k, request.Claims)
			if err != nil {
				one.Error = "refused"
			} else {
				one.Token = token
			}
			out.Encode(one)
		}
	}
}
