"""Waits on a host until its services answer: ready.py SECONDS STATUS URL...   STATUS: 200, or any

Prints what is missing after that time, in one line, and fails.
"""

import ssl
import sys
import time
import urllib.error
import urllib.request


def tls():
    """Who answers on an address of this very host need not prove it: nothing secret is sent. It may want to see a certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        context.load_cert_chain("/etc/skydive/tls/client.crt", "/etc/skydive/tls/client.key")
    except OSError:
        pass  # none here, or of no use: an answer that depends on it is refused, and says so
    return context


# Itself and nothing else: no proxy stands between a host and its own services.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=tls()))


def missing(url, wanted):
    try:
        with OPENER.open(url, timeout=2) as answer:
            status, text = answer.status, ""
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read(200).decode("utf-8", "replace").strip()
    except OSError as error:
        return "%s does not answer (%s)" % (url, getattr(error, "reason", None) or error)
    return "" if wanted in ("any", str(status)) else "%s answers %d: %s" % (url, status, text)


def main(seconds, wanted, *urls):
    end = time.monotonic() + float(seconds)
    while True:
        problems = [problem for problem in (missing(url, wanted) for url in urls) if problem]
        if not problems:
            return
        if time.monotonic() > end:
            sys.exit("after %s s %s" % (seconds, "; ".join(problems)))
        time.sleep(0.2)


if __name__ == "__main__":
    main(*sys.argv[1:])
