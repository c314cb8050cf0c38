# shellcheck shell=bash
# What images/fetch and images/update share: the pins of a vendor's image, and fetching over the network. Source it after lib.sh.
#
#   VENDOR_MIRROR  fetch https://HOST/PATH from $VENDOR_MIRROR/HOST/PATH: a mirror or proxy of your own. Digests and signatures
#                  are checked as ever.
#
# Proxies are curl's: https_proxy, no_proxy.
#
# images/NAME/pins says what is fetched, one thing a line, # for comments:
#
#   key FINGERPRINT URL [FILE]   a key that the vendor signs with, where it can be had, and where it is if a Debian package brought it
#   ARCH version TEXT            ARCH: amd64 or arm64
#   ARCH url URL                 of the image
#   ARCH sha256 HEX              or sha512: of the file at that URL, as it is there
#   ARCH signature URL           the vendor's signature of the image; with sums, of that file
#   ARCH sums URL                a list of digests, which the vendor signs instead of the image
#
# A vendor that signs nothing has neither key nor signature.

# Architectures that pins may be for.
# shellcheck disable=SC2034 # by those who source this
ARCHS=(amd64 arm64)

# vendors: the names of all images that are fetched.
vendors() {
	local f
	for f in "$REPO"/images/*/pins; do basename "$(dirname "$f")"; done
}

# pin FILE ARCH WHAT: the word that the pins file FILE has for it; nothing when there is none.
pin() { awk -v arch="$2" -v what="$3" '$1 == arch && $2 == what { print $3; exit }' "$1"; }

# pinned_digest FILE ARCH: the digest as ALGORITHM-HEX; nothing when there is none.
pinned_digest() { awk -v arch="$2" '$1 == arch && $2 ~ /^sha(256|512)$/ { print $2 "-" $3; exit }' "$1"; }

# fingerprints FILE: those of the keys, one a line.
fingerprints() { awk '$1 == "key" { print $2 }' "$1"; }

# source_of URL: where it is fetched from.
source_of() {
	if [ -n "${VENDOR_MIRROR:-}" ]; then
		echo "${VENDOR_MIRROR%/}/${1#*://}"
	else
		echo "$1"
	fi
}

# curl_url URL OPTION…: curl, with the options that all fetches have. A vendor's host is never asked without TLS. A connection on which less
# than 1 kB/s comes for a minute is given up.
curl_url() {
	local url=$1 protocols='=https'
	shift
	[ -z "${VENDOR_MIRROR:-}" ] || protocols='=http,https'
	curl --silent --show-error --fail --location --proto "$protocols" --proto-redir "$protocols" --max-redirs 10 \
		--connect-timeout 30 --speed-limit 1000 --speed-time 60 "$@" -- "$(source_of "$url")"
}

# What a file that is not there means.
gone='the vendor has removed it, as vendors do with old releases; "make update-images" pins a newer one'

# not_fetched URL CURL_CODE HTTP_CODE: ends with why, and what to do about it.
not_fetched() {
	local url=$1 code=$2 http=$3 from why
	from=$(source_of "$url")
	case $code/$http in
	*/404 | */410) why="the server says $http: $gone" ;;
	22/*) why="the server says $http; try again later, or fetch from elsewhere with VENDOR_MIRROR" ;;
	5/* | 6/* | 7/* | 18/* | 28/* | 35/* | 52/* | 56/*)
		why="the network does not lead there (curl: code $code); a proxy is set with https_proxy, a mirror of your own with VENDOR_MIRROR" ;;
	60/*) why="its TLS certificate is signed by nobody known here; for a CA of your own set CURL_CA_BUNDLE" ;;
	33/*) why="the server cannot go on where a download was cut off, and the connection is lost each time" ;;
	23/*) why="$CACHE cannot be written to, or is full" ;;
	*) why="curl says $code" ;;
	esac
	die "cannot fetch $from: $why"
}

# index URL: prints a small file. For what is too small to be gone on with.
index() {
	local http code=0 text
	text=$(mktemp)
	http=$(curl_url "$1" --compressed --max-time 120 --max-filesize 33554432 --write-out '%{http_code}' --output "$text") || code=$?
	if [ "$code" != 0 ]; then
		rm -f "$text"
		not_fetched "$1" "$code" "$http"
	fi
	cat "$text"
	rm -f "$text"
}

# download URL FILE: fetches URL to FILE, from where FILE ends. A connection that is lost is made again as long as anything comes.
# What it leaves is whole as far as the server says; the digest has the last word.
download() {
	local url=$1 file=$2 http code size before=-1 idle=0 again=0
	while :; do
		size=$(stat -c %s "$file" 2>/dev/null || echo 0)
		code=0
		http=$(curl_url "$url" --continue-at "$size" --write-out '%{http_code}' --output "$file") || code=$?
		case $code/$http in
		0/*) return ;;
		# A server that cannot go on where one was; or there is nothing after what is here already, which was not the right thing.
		33/* | 22/416)
			rm -f "$file"
			again=$((again + 1))
			[ "$again" -lt 3 ] || not_fetched "$url" "$code" "$http"
			;;
		22/5?? | 6/* | 7/* | 16/* | 18/* | 28/* | 35/* | 52/* | 55/* | 56/* | 92/*) ;;
		*) not_fetched "$url" "$code" "$http" ;;
		esac
		if [ "$size" = "$before" ]; then idle=$((idle + 1)); else idle=0; fi
		[ "$idle" -lt 3 ] || not_fetched "$url" "$code" "$http"
		[ "$idle" = 0 ] || sleep $((idle * 2))
		before=$size
	done
}

# digest_of ALGORITHM FILE
digest_of() { "${1}sum" <"$2" | cut -d ' ' -f 1; }
