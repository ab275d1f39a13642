// Fastify with @fastify/jwt (its cache of verified tokens on), @fastify/rate-limit in Redis, the state in Redis.
import Fastify from 'fastify'
import jwt from '@fastify/jwt'
import rateLimit from '@fastify/rate-limit'
import Redis from 'ioredis'

const [port, redisUrl, secret] = process.argv.slice(2)
const redis = new Redis(redisUrl, { enableAutoPipelining: true })
const app = Fastify({ logger: false })
await app.register(jwt, {
  secret,
  verify: { cache: true, extractToken: (request) => request.headers['x-token'] }
})
await app.register(rateLimit, { max: 1000000, timeWindow: 60000, redis })
app.get('/auth/status', { onRequest: (request) => request.jwtVerify() }, async (request) => {
  const status = await redis.get(`session:${request.user.sub}`)
  return { user: request.user.sub, status: status ?? 'logged_in' }
})
await app.listen({ port: Number(port), host: '127.0.0.1' })
