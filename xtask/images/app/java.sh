#!/bin/bash
# READY when a JSP page of the examples was compiled and answered with 200.
mkdir -p "$CATALINA_BASE"/{temp,work,logs}
"$JAVA_HOME/bin/java" -Djava.io.tmpdir=/tmp -Dcatalina.home="$CATALINA_HOME" -Dcatalina.base="$CATALINA_BASE" \
  -cp "$CATALINA_HOME/bin/bootstrap.jar:$CATALINA_HOME/bin/tomcat-juli.jar:/usr/share/java/commons-daemon.jar" \
  org.apache.catalina.startup.Bootstrap start >/tmp/tomcat.log 2>&1 &
server=$!
until { exec 3<>/dev/tcp/127.0.0.1/8080; } 2>/dev/null; do
  kill -0 $server || { cat /tmp/tomcat.log; exit 1; }
  sleep 0.05
done
printf 'GET /examples/jsp/dates/date.jsp HTTP/1.0\r\nHost: localhost\r\n\r\n' >&3
read -r status <&3
case "$status" in
  *" 200"*) echo "READY java ${status%$'\r'}" ;;
  *) echo "failed: $status"; cat /tmp/tomcat.log ;;
esac
kill -KILL $server
