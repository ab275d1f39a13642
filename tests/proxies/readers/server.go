// Go as a reader of paths: net/http's ServeMux (which redirects what it would clean), URL.Path, and path.Clean.
package main

import (
	"net/http"
	"os"
	"path"
	"regexp"
	"strings"
)

var zones = [][2]string{{"payments", "/api/payments"}, {"public", "/public"}, {"static", "/static"}, {"api", "/api"}}

// RFC 3986, section 6.2.2.2: `%61` and `a` are the same. Who takes the target as it came has to see to that.
var unreserved = regexp.MustCompile(`(?i)%(2[de]|3[0-9]|[46][1-9a-f]|[57][0-9a]|5f|7e)`)

func zone(path string) string {
	for _, one := range zones {
		if path == one[1] || strings.HasPrefix(path, one[1]+"/") {
			return one[0]
		}
	}
	return "other"
}

func answer(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(name)) }
}

func main() {
	mux := http.NewServeMux()
	mux.HandleFunc("/", answer("other"))
	for _, one := range zones {
		mux.HandleFunc(one[1], answer(one[0]))
		mux.HandleFunc(one[1]+"/", answer(one[0]))
	}
	go http.ListenAndServe("127.0.0.1:"+os.Args[2], http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reads := []string{r.URL.Path}
		if !unreserved.MatchString(r.RequestURI) {
			reads = append(reads, r.URL.EscapedPath())
		}
		for _, read := range reads {
			w.Write([]byte(zone(read) + " " + zone(path.Clean(read)) + " "))
		}
	}))
	http.ListenAndServe("127.0.0.1:"+os.Args[1], mux)
}
