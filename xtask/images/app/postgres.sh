#!/bin/bash
# READY when a query over a new table was answered.
mkdir -p /var/run/postgresql
chown postgres /var/run/postgresql
su postgres -c '/usr/lib/postgresql/15/bin/postgres -D /data -c listen_addresses= -c fsync=off' >/tmp/postgres.log 2>&1 &
server=$!
query='create table numbers(n int); insert into numbers select generate_series(1,1000); select sum(n) from numbers'
until sum=$(/usr/lib/postgresql/15/bin/psql -U postgres -h /var/run/postgresql -Atqc "$query" 2>/dev/null); do
  kill -0 $server || { cat /tmp/postgres.log; exit 1; }
  sleep 0.05
done
[ "$sum" = 500500 ] && echo "READY postgres $sum"
kill -INT "$(head -n 1 /data/postmaster.pid)"
wait $server
