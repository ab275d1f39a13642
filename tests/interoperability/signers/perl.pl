# Signs with Crypt::JWT, as Debian packages it.
use strict;
use warnings;
use Crypt::JWT qw(encode_jwt);
use JSON::PP;

my $request = decode_json(join '', <STDIN>);
for my $alg (sort keys %{ $request->{keys} }) {
    my $key  = $request->{keys}{$alg};
    my %line = (library => 'Crypt::JWT', version => "$Crypt::JWT::VERSION", alg => $alg);
    my $made = $key->{secret} ? $key->{secret} : $alg eq 'EdDSA' ? $key->{jwk} : \$key->{pem};
    my $token = eval { encode_jwt(payload => $request->{claims}, alg => $alg, key => $made) };
    $token ? ($line{token} = $token) : ($line{error} = 'died');
    print encode_json(\%line), "\n";
}
