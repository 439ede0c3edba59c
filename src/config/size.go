package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Size is a number of bytes.
type Size int64

// sizeUnits are powers of 1024, as memory and file systems are counted.
var sizeUnits = []string{"KiB", "MiB", "GiB", "TiB"}

// parseSize reads bytes, or a whole number with a unit.
func parseSize(text string) (Size, error) {
	number, shift := text, 0
	for i, unit := range sizeUnits {
		for _, spelling := range []string{unit, unit[:1] + "B", unit[:1]} {
			if rest, ok := cutSuffixFold(text, spelling); ok && shift == 0 {
				number, shift = strings.TrimSpace(rest), 10*(i+1)
			}
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	switch {
	case err != nil || n < 0:
		return 0, errors.New("want bytes, or a number with KiB, MiB, GiB or TiB")
	case n > math.MaxInt64>>shift:
		return 0, errors.New("too large")
	}
	return Size(n << shift), nil
}

func cutSuffixFold(s, suffix string) (string, bool) {
	if i := len(s) - len(suffix); i >= 0 && strings.EqualFold(s[i:], suffix) {
		return s[:i], true
	}
	return s, false
}

// String uses the largest unit that needs no fraction.
func (s Size) String() string {
	for i := len(sizeUnits) - 1; i >= 0; i-- {
		if unit := int64(1) << (10 * (i + 1)); s != 0 && int64(s)%unit == 0 {
			return fmt.Sprintf("%d%s", int64(s)/unit, sizeUnits[i])
		}
	}
	return strconv.FormatInt(int64(s), 10)
}
