# Signs with ruby-jwt, as Debian packages it.
require "json"
require "jwt"
require "openssl"

request = JSON.parse($stdin.read)
request["keys"].each do |alg, key|
  line = { library: "ruby-jwt", version: JWT.gem_version.to_s, alg: alg }
  begin
    made = key["secret"] || OpenSSL::PKey.read(key["pem"])
    line[:token] = JWT.encode(request["claims"], made, alg)
  rescue StandardError, NotImplementedError, LoadError => e
    line[:error] = e.class.name
  end
  puts JSON.generate(line)
end
