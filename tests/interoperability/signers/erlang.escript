#!/usr/bin/env escript
%% Signs with erlang-jose, as Debian packages it. One algorithm for each call: Erlang of Debian 12 has no JSON of its own.
main([Alg, JwkFile, PayloadFile]) ->
    {ok, _} = application:ensure_all_started(jose),
    Jwk = jose_jwk:from_file(JwkFile),
    {ok, Payload} = file:read_file(PayloadFile),
    Header = #{<<"alg">> => list_to_binary(Alg), <<"typ">> => <<"JWT">>},
    {_, Token} = jose_jws:compact(jose_jws:sign(Jwk, Payload, Header)),
    {ok, Version} = application:get_key(jose, vsn),
    io:format("~s ~s~n", [Version, Token]).
