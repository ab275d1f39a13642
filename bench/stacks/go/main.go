// What one would write in Go by hand: net/http, golang-jwt with a cache of verified tokens, and redigo with
// INCR, EXPIRE and GET in one pipeline.
//
// It is built in GOPATH mode from Debian's packages, without a module proxy:
//
//	GO111MODULE=off GOPATH=/usr/share/gocode go build -o status main.go
//	./status PORT REDIS_ADDRESS SECRET
package main

import (
	"encoding/json"
	"errors"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/golang-jwt/jwt"
	"github.com/gomodule/redigo/redis"
)

const (
	limit     = 1_000_000
	windowS   = 60
	maxTokens = 10_000
	poolSize  = 64
)

// verified is what is known of a token: whose it is, and until when (seconds of Unix time).
type verified struct {
	user    string
	expires int64
}

// tokens are the tokens that have been verified. A full cache begins anew.
type tokens struct {
	sync.RWMutex
	secret []byte
	parser *jwt.Parser
	known  map[string]verified
}

func (cache *tokens) user(token string) (string, error) {
	cache.RLock()
	found, ok := cache.known[token]
	cache.RUnlock()
	if ok && time.Now().Unix() < found.expires {
		return found.user, nil
	}
	var claims jwt.RegisteredClaims
	key := func(*jwt.Token) (interface{}, error) { return cache.secret, nil }
	if _, err := cache.parser.ParseWithClaims(token, &claims, key); err != nil {
		return "", err
	}
	if claims.Subject == "" || claims.ExpiresAt == nil {
		return "", errors.New("sub and exp are required")
	}
	cache.Lock()
	if len(cache.known) >= maxTokens {
		cache.known = make(map[string]verified, maxTokens)
	}
	cache.known[token] = verified{claims.Subject, claims.ExpiresAt.Unix()}
	cache.Unlock()
	return claims.Subject, nil
}

// session counts the request in the address's window and reads the user's status, in one round trip.
func session(pool *redis.Pool, address, user string) (int, string, error) {
	conn := pool.Get()
	defer conn.Close()
	window := "limit:" + address + ":" + strconv.FormatInt(time.Now().Unix()/windowS, 10)
	for _, err := range []error{
		conn.Send("INCR", window),
		conn.Send("EXPIRE", window, windowS),
		conn.Send("GET", "session:"+user),
		conn.Flush(),
	} {
		if err != nil {
			return 0, "", err
		}
	}
	used, err := redis.Int(conn.Receive())
	if err != nil {
		return 0, "", err
	}
	if _, err = conn.Receive(); err != nil {
		return 0, "", err
	}
	status, err := redis.String(conn.Receive())
	if errors.Is(err, redis.ErrNil) {
		return used, "logged_in", nil
	}
	return used, status, err
}

type answer struct {
	User   string `json:"user"`
	Status string `json:"status"`
}

func main() {
	port, address, secret := os.Args[1], os.Args[2], os.Args[3]
	cache := &tokens{
		secret: []byte(secret),
		parser: jwt.NewParser(jwt.WithValidMethods([]string{"HS256"})),
		known:  make(map[string]verified, maxTokens),
	}
	pool := &redis.Pool{
		MaxIdle:   poolSize,
		MaxActive: poolSize,
		Wait:      true,
		Dial:      func() (redis.Conn, error) { return redis.Dial("tcp", address) },
	}
	http.HandleFunc("/auth/status", func(writer http.ResponseWriter, request *http.Request) {
		user, err := cache.user(request.Header.Get("X-Token"))
		if err != nil {
			http.Error(writer, `{"error": "unauthorized"}`, http.StatusUnauthorized)
			return
		}
		client, _, err := net.SplitHostPort(request.RemoteAddr)
		if err != nil {
			client = request.RemoteAddr
		}
		used, status, err := session(pool, client, user)
		if err != nil {
			http.Error(writer, `{"error": "unavailable"}`, http.StatusServiceUnavailable)
			return
		}
		if used > limit {
			http.Error(writer, `{"error": "too many requests"}`, http.StatusTooManyRequests)
			return
		}
		body, err := json.Marshal(answer{user, status})
		if err != nil {
			http.Error(writer, `{"error": "internal"}`, http.StatusInternalServerError)
			return
		}
		header := writer.Header()
		header.Set("Content-Type", "application/json")
		header.Set("Content-Length", strconv.Itoa(len(body)))
		if _, err = writer.Write(body); err != nil {
			log.Print(err)
		}
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+port, nil))
}
