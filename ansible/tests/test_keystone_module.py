"""What skydive_keystone says to a server that is no Keystone, that nobody trusts, or that is not there; the rest is tested against a real one."""

import http.server
import json
import os
import pathlib
import ssl
import subprocess
import sys
import tempfile
import threading
import unittest

LIBRARY = pathlib.Path(__file__).parent.parent / "library"


class Page(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(b"<html>")

    def log_message(self, *arguments):
        pass


class Module(unittest.TestCase):
    def serve(self, status=200, tls=None):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
        server.status, server.bodies = status, []
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        return server, "%s://localhost:%d" % ("https" if tls else "http", server.server_port)

    def run_module(self, **arguments):
        arguments = {"username": "admin", "password": "hidden", "users": [], **arguments}
        done = subprocess.run([sys.executable, LIBRARY / "skydive_keystone.py"], input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}), text=True, capture_output=True,
                              env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
        self.assertNotIn("hidden", done.stdout + done.stderr)
        return json.loads(done.stdout)

    def test_a_page_is_not_keystone(self):
        answer = self.run_module(auth_url=self.serve()[1])
        self.assertTrue(answer["failed"])
        self.assertIn("does not answer as Keystone does", answer["msg"])

    def test_an_error_is_told(self):
        _, url = self.serve(503)
        self.assertIn("os_auth_url: POST %s/v3/auth/tokens: 503 Service Unavailable" % url, self.run_module(auth_url=url)["msg"])

    def test_urls_are_taken_as_people_write_them(self):
        _, url = self.serve(503)
        for text in (url, url + "/", url + "/v3", url + "/v3/", url + "/v2.0"):
            self.assertIn(" %s/v3/auth/tokens" % url, self.run_module(auth_url=text)["msg"])

    def test_nobody_is_there(self):
        server, url = self.serve()
        server.socket.close()
        self.assertIn("does not answer", self.run_module(auth_url=url)["msg"])

    def test_validate_certs(self):
        with tempfile.TemporaryDirectory() as work:
            key, certificate = os.path.join(work, "key"), os.path.join(work, "crt")
            subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
                            "-keyout", key, "-out", certificate], check=True, capture_output=True)
            server, url = self.serve(503, (certificate, key))
            self.assertIn("certificate", self.run_module(auth_url=url)["msg"].lower())
            self.assertEqual(server.bodies, [], "the password went to a stranger")
            self.assertIn("503", self.run_module(auth_url=url, ca_cert=certificate)["msg"])
            self.assertIn("503", self.run_module(auth_url=url, validate_certs=False)["msg"])


if __name__ == "__main__":
    unittest.main()
